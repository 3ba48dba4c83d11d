"""The general reader: forms it accepts, faults it counts, and that it names the place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coincide.data.images import UnsafePath
from coincide.data.llava_json import folder_source, inspect, read
from coincide.data.report import Policies
from coincide.schema import Dataset, Turn, UserError
from tests.data.files import row, text_row, turn, write


def load(root: Path, rows: Any, images: tuple[str, ...] = ("pics/a.png",), **policies) -> Dataset:
    return read(write(root, rows, images), root, name="small", **policies)


def test_forms_of_a_row(tmp_path: Path) -> None:
    talk = [turn("human", "<image>\nq"), turn("gpt", "a"), turn("human", "more"), turn("gpt", "b")]
    rows = [
        row("x"),
        row(7),
        row(None),
        text_row(),
        {**row("l", ["pics/a.png", "pics/b.png"]), "conversations": [
            turn("human", "<image><image> same?"), turn("gpt", "no")]},
        {**row("m"), "conversations": talk},
        {**text_row("n"), "image": None},
        {**text_row("e"), "image": []},
    ]  # fmt: skip
    dataset = load(tmp_path, rows, ("pics/a.png", "pics/b.png"))
    assert [e.row for e in dataset.examples] == list(range(8))
    assert [e.id for e in dataset.examples] == ["x", "7", "", "t", "l", "m", "n", "e"]
    assert [len(e.images) for e in dataset.examples] == [1, 1, 1, 0, 2, 1, 0, 0]
    assert dataset.examples[5].turns == (
        Turn("human", "<image>\nq"), Turn("gpt", "a"), Turn("human", "more"), Turn("gpt", "b"),
    )  # fmt: skip
    assert [e.source for e in dataset.examples[2:5]] == ["pics", "text", "pics"]
    assert not dataset.dropped
    assert not dataset.blank_images


def test_leading_system_and_gpt_turns_are_left_out_as_llava_does(tmp_path: Path) -> None:
    talk = row()["conversations"]
    rows = [
        {**row(), "conversations": [turn("system", "be kind"), *talk]},
        {**row(), "conversations": [turn("gpt", "hello"), *talk]},
        {**row(), "conversations": [turn("system", "x"), turn("gpt", "hello"), *talk]},
    ]
    dataset, report = inspect(write(tmp_path, rows), tmp_path, name="small")
    assert {e.turns for e in dataset.examples} == {
        (Turn("human", "<image>\nwhat?"), Turn("gpt", "red"))
    }
    assert report.left_out_turns == 4
    assert not report.problems


FAULTS = {
    "not an object": ["text", 3, None, [row()]],
    "no conversation": [
        {"id": "a"},
        {"id": "a", "conversations": []},
        {"id": "a", "conversations": "hi"},
    ],
    "malformed turn": [
        text_row(conversations=["hi"]),
        text_row(conversations=[{"from": "human"}]),
        text_row(conversations=[turn("human", "q"), {"from": "gpt", "value": None}]),
    ],
    "unknown role": [
        text_row(conversations=[turn("robot", "q"), turn("gpt", "a")]),
        text_row(conversations=[turn("human", "q"), turn("gpt", "a"), turn("system", "s")]),
        text_row(conversations=[{"value": "q"}, turn("gpt", "a")]),
        text_row(conversations=[{"from": ["human"], "value": "q"}, turn("gpt", "a")]),
    ],
    "two turns of one role": [
        text_row(conversations=[turn("human", "q"), turn("human", "q"), turn("gpt", "a")]),
        text_row(conversations=[turn("human", "q"), turn("gpt", "a"), turn("gpt", "a")]),
        text_row(conversations=[turn("gpt", "q"), turn("gpt", "a")]),
    ],
    "no answer": [
        text_row(conversations=[turn("human", "q")]),
        text_row(conversations=[turn("gpt", "a")]),
        text_row(conversations=[turn("human", "q"), turn("gpt", "a"), turn("human", "q")]),
    ],
    "more <image> than images": [
        row(image=None),
        row(question="<image><image> two?"),
        text_row(conversations=[turn("human", "q"), turn("gpt", "a stray <image>")]),
    ],
    "fewer <image> than images": [
        row(question="no placeholder"),
        row(image=["pics/a.png", "pics/a.png"]),
    ],
    "wrong id": [row(True), row(1.5), row(["a"])],
    "wrong image field": [row(image=3), row(image=[""]), row(image={"path": "pics/a.png"})],
    "broken Unicode": [text_row(conversations=[turn("human", "q \ud800"), turn("gpt", "a")])],
}


@pytest.mark.parametrize(("kind", "bad"), FAULTS.items(), ids=list(FAULTS))
def test_bad_rows(tmp_path: Path, kind: str, bad: list[Any]) -> None:
    """Each is named by its row under ``error``; under ``drop`` it leaves the pool alone."""
    rows = [row("first"), *bad, row("last")]
    numbers = list(range(1, len(bad) + 1))
    with pytest.raises(UserError) as error:
        load(tmp_path, rows)
    assert f"{len(bad)} x {kind}: rows {', '.join(map(str, numbers))} (" in str(error.value)
    assert "data.on_bad_row=drop" in str(error.value)
    assert "\n" not in str(error.value).split("the first: ")[1].split("\nMend")[0]
    dataset = load(tmp_path, rows, on_bad_row="drop")
    assert dict(dataset.dropped) == dict.fromkeys(numbers, kind)
    assert [e.row for e in dataset.examples] == list(range(len(rows)))
    assert dataset.examples[-1].id == "last"
    assert all(not dataset.examples[n].turns for n in numbers)


def test_every_kind_is_listed_at_once_and_ten_rows_of_each(tmp_path: Path) -> None:
    rows = [row(), *[{"id": "a"}] * 12, row(image=None)]
    with pytest.raises(UserError) as error:
        load(tmp_path, rows)
    text = str(error.value)
    assert "12 x no conversation: rows 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, ... (" in text
    assert "1 x more <image> than images: rows 13 (by source: text 1)" in text


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('[{"id": "ä"}, {"id": "b', "byte 22 of 24: Unterminated string"),
        ('[{"id": "ä"}, {"id": "b', "It is in row 1, which begins at byte 15"),
        ('[{"id": "a"}', "byte 12 of 12: expected ',' or ']' after the row. It is in row 0"),
        ('[{"id": "a"},', "byte 13 of 13"),
        ('[{"id": "a"} {"id": "b"}]', "byte 13 of 25: expected ','"),
        ('[{"id": a}]', "byte 8 of 11"),
        ('[{"id": "a"}] x', "byte 14 of 15: text after the end of the list"),
        ("[" + "[" * 200_000, "nested too deeply"),
        ('{"a": 1, "data": [{}]}', "a JSON object with the keys 'a', 'data'"),
        ('{"a": 1, "data": [{}]}', "may be the list under 'data'"),
        ('{"id": "a"}\n{"id": "b', "malformed JSON in row 1, the line at byte 12"),
        ("", "an empty file"),
        ("[]", "an empty list"),
        ("id,image\n1,a.png", "text that begins with 'id,image"),
    ],
)  # fmt: skip
def test_malformed_json_names_byte_and_row(tmp_path: Path, text: str, place: str) -> None:
    with pytest.raises(UserError) as error:
        load(tmp_path, text)
    assert place in str(error.value)


def test_not_utf8_and_absent(tmp_path: Path) -> None:
    path = write(tmp_path, [row()])
    path.write_bytes(b'[{"id": "\xe9"}]')
    with pytest.raises(UserError, match="not UTF-8 at byte 9"):
        read(path, tmp_path, name="x")
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path / "absent.json", tmp_path, name="x")


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    path = write(tmp_path, [row()])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read(path, tmp_path, name="x")) == 1


def test_duplicate_ids_are_counted_and_harmless(tmp_path: Path) -> None:
    rows = [row(i // 2) for i in range(24)] + [row(99), row(None), row(None)]
    dataset, report = inspect(write(tmp_path, rows), tmp_path, name="x")
    assert (report.duplicate_ids, report.without_id) == (12, 2)
    assert report.duplicate_ids_first == [str(i) for i in range(10)]
    assert not dataset.dropped


def missing_rows() -> list[dict[str, Any]]:
    return [
        row("a"),
        row("b", "ocr/1.jpg"),
        row("c", "ocr/2.jpg"),
        row("d", ["pics/a.png", "gqa/x/9.jpg"], "<image><image>"),
        text_row(),
    ]


def test_missing_images_are_counted_by_source(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load(tmp_path, missing_rows())
    text = str(error.value)
    assert (
        "3 x missing image: rows 1, 2, 3 (by source: ocr 2, pics 1); the first: 'ocr/1.jpg', "
        f"looked for at '{tmp_path}/ocr/1.jpg'; there is no folder '{tmp_path}/ocr'\n" in text
    )
    assert "data.on_missing_image=drop|blank" in text


def test_missing_images_dropped_or_blank(tmp_path: Path) -> None:
    dropped = load(tmp_path, missing_rows(), on_missing_image="drop")
    assert set(dropped.dropped) == {1, 2, 3}
    assert not dropped.blank_images
    blank = load(tmp_path, missing_rows(), on_missing_image="blank")
    assert blank.blank_images == {1, 2, 3}
    assert not blank.dropped


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "pics" / "b.png").mkdir(parents=True)
    assert set(
        load(tmp_path, [row(), row(image="pics/b.png")], on_missing_image="drop").dropped
    ) == {1}


def test_corrupt_images_follow_their_own_policy(tmp_path: Path) -> None:
    rows = [
        row("a"),
        row("b", "pics/b.png"),
        row("c", ["pics/b.png", "gone.png"], "<image><image>"),
    ]
    images = ("pics/a.png", "pics/b.png")
    known = {"pics/b.png": "a file of zero bytes"}
    with pytest.raises(
        UserError, match=r"2 x corrupt image: rows 1, 2 .*\n.*data.on_corrupt_image"
    ):
        load(tmp_path, rows, images, corrupt=known, on_missing_image="drop")
    both = {"corrupt": known, "on_corrupt_image": "blank"}
    mixed = load(tmp_path, rows, images, **both, on_missing_image="drop")
    assert mixed.blank_images == {1}, "a row that one policy drops is not blanked by the other"
    assert set(mixed.dropped) == {2}
    assert load(tmp_path, rows, images, **both, on_missing_image="blank").blank_images == {1, 2}


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../out.png", "pics/../../out.png", "~/x.png", "C:\\x.png", "..\\x.png"]
)
def test_paths_out_of_the_root_are_refused_whatever_the_policy(tmp_path: Path, path: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "out.png").write_bytes(b"x")
    rows = write(root, [row(), row(image=path)])
    with pytest.raises(UnsafePath, match="1 image paths leave the image root") as error:
        read(rows, root, name="x", on_bad_row="drop", on_missing_image="blank")
    assert repr(path) in str(error.value)


@pytest.mark.parametrize("link", ["pics/link.png", "folder"])
def test_links_out_of_the_root_are_refused(tmp_path: Path, link: str) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    write(outside, [], ("a.png",))
    annotations = write(root, [row(image=link if link.endswith("png") else f"{link}/a.png")])
    (root / link).symlink_to(outside / "a.png" if link.endswith("png") else outside)
    with pytest.raises(UnsafePath, match="symbolic link leads out"):
        read(annotations, root, name="x", on_missing_image="drop")


def test_links_inside_the_root_and_a_linked_root_are_fine(tmp_path: Path) -> None:
    real = tmp_path / "real"
    annotations = write(real, [row(image="link/a.png"), row(image="pics/b.png")])
    (real / "link").symlink_to("pics")
    (real / "pics" / "b.png").symlink_to("a.png")
    (tmp_path / "root").symlink_to(real)
    assert len(read(annotations, tmp_path / "root", name="x")) == 2


def test_unknown_policy_is_refused_with_the_choices(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="on_bad_row='blank': the choices are error, drop"):
        load(tmp_path, [row()], on_bad_row="blank")


def test_report_is_json_and_adds_up(tmp_path: Path) -> None:
    rows = [row("a"), row("a"), text_row(), {"id": "bad"}, row("m", "gone.png")]
    policies = Policies("drop", "blank", "error")
    _, report = inspect(write(tmp_path, rows), tmp_path, name="x", policies=policies)
    said = json.loads(json.dumps(report.as_json()))
    assert (said["rows"], said["dropped"], said["blank"], said["text_only"]) == (5, 1, 1, 1)
    assert (said["images"], said["turns"]) == (2, 8)
    assert said["sources"] == {"images": 1, "pics": 2, "text": 2}
    assert said["problems"]["no conversation"]["rows"] == [3]
    assert said["problems"]["missing image"]["sources"] == {"images": 1}


@pytest.mark.parametrize(
    ("image", "source"),
    [
        ("coco/train2017/1.jpg", "coco"),
        ("1.jpg", "images"),
        (["gqa/1.jpg"], "gqa"),
        (None, "text"),
        ([], "text"),
    ],
)
def test_folder_source(image: Any, source: str) -> None:
    assert folder_source({"image": image}) == source


def test_text_of_a_fault_stays_inert_and_short(tmp_path: Path) -> None:
    evil = text_row(conversations=[turn("\x1b[31m\n<script>" + "x" * 500, "q")])
    with pytest.raises(UserError) as error:
        load(tmp_path, [evil])
    assert "\x1b" not in str(error.value)
    assert len(str(error.value)) < 400
