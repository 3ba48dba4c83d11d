"""data=llava and data=vision_flan: sources from content, counts, policies, verify's report."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from coincide.data import llava, vision_flan
from coincide.data.demo import Demo
from coincide.data.llava import BLOCKS, Llava, source_of
from coincide.data.llava_json import LlavaJson
from coincide.data.verify import verify
from coincide.data.vision_flan import VisionFlan, task_of
from coincide.schema import UserError
from coincide.store import Store
from tests.data.files import row, turn
from tests.mini import llava665k as mini

DROP = {"on_bad_row": "drop", "on_missing_image": "drop", "on_corrupt_image": "drop"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    mini.make(tmp_path / "llava")
    return tmp_path / "llava"


def miniature(root: Path, **options: Any) -> Llava:
    options = {**DROP, "expect": "any", **options}
    return Llava(annotations=str(root / mini.ANNOTATIONS), images=str(root), **options)


def store(root: Path) -> Store:
    return Store(root.parent / "store")


def test_the_published_counts_add_up() -> None:
    assert sum(BLOCKS.values()) == 665_298
    assert sum(BLOCKS[block] for block in llava.COCO) == 364_100
    assert list(BLOCKS) == list(mini.BLOCKS)


def test_sources_come_from_content_not_from_place(root: Path) -> None:
    rows = json.loads((root / mini.ANNOTATIONS).read_text())
    assert [source_of(value) for value in rows] == mini.sources()
    pairs = list(zip(rows, mini.sources(), strict=True))
    random.Random(0).shuffle(pairs)
    (root / mini.ANNOTATIONS).write_text(json.dumps([value for value, _ in pairs]))
    data = miniature(root)
    dataset = data.open(store(root).ensure(data.step()).path)
    assert [example.source for example in dataset.examples] == [source for _, source in pairs]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (row(image="coco/train2017/1.jpg", question="<image>\nWhat's happening in the scene?"),
         "llava_detail"),
        (row(image="coco/train2017/1.jpg", question="What is this photo about'?\n<image>"),
         "llava_detail"),
        (row(image="coco/train2017/1.jpg", question="<image>\nWhy is he there?"),
         "llava_reasoning"),
        (row(image="gqa/images/1.jpg", question=f"<image>\nWhere?\n{llava.SHORT}"), "gqa"),
        (row(image="vg/VG_100K/1.jpg", question="<image>\nWhy?"), "vg"),
        (row(image="docvqa/1.jpg"), "docvqa"),
        (row(image=None, question="hello"), "sharegpt"),
        ({"image": "coco/train2017/1.jpg"}, "llava_reasoning"),
        ({"image": "coco/train2017/1.jpg", "conversations": ["x", {"value": 3}]},
         "llava_reasoning"),
    ],
)  # fmt: skip
def test_forms_of_question(value: dict[str, Any], expected: str) -> None:
    assert source_of(value) == expected


def test_few_short_questions_about_a_coco_image_are_okvqa() -> None:
    ask = turn("human", f"<image>\nWhich country?\n{llava.SHORT}"), turn("gpt", "France")
    more = turn("human", "Which city?"), turn("gpt", "Paris")
    for questions, expected in ((1, "okvqa"), (2, "okvqa"), (3, "vqav2")):
        conversation = [*ask, *more * (questions - 1)]
        value = {"image": "coco/train2017/1.jpg", "conversations": conversation}
        assert source_of(value) == expected


def test_a_fork_is_refused_with_got_and_expected(root: Path) -> None:
    with pytest.raises(UserError, match="is not the published LLaVA-665K") as error:
        store(root).ensure(miniature(root, expect="published").step())
    text = " ".join(str(error.value).split())
    assert "gqa 32 72,140 <-" in text
    assert "together 302 665,298" in text
    assert "data.expect=any" in text
    assert not store(root).root.joinpath("data").exists() or not list(
        store(root).root.glob("data/*/manifest.json")
    )


def test_the_expected_counts_pass_and_a_doubt_within_coco_is_printed(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(llava, "BLOCKS", dict(mini.BLOCKS))
    data = miniature(root, expect="published", lost_at_most=0.02)
    assert store(root).ensure(data.step()).facts["rows"] == mini.ROWS
    printed = capsys.readouterr().out
    assert "differ" not in printed
    assert "of 302 rows 4 dropped, 0 with a blank picture" in printed
    assert "2 x missing image: rows 238, 239 (by source: ocr_vqa 2)" in printed
    other = {**mini.BLOCKS, "llava_reasoning": 33, "llava_conversation": 27}
    monkeypatch.setattr(llava, "BLOCKS", other)
    data.open(store(root).ensure(data.step()).path)
    printed = " ".join(capsys.readouterr().out.split())
    assert "differ within COCO" in printed
    assert "llava_reasoning 34 33 <-" in printed
    monkeypatch.setattr(llava, "BLOCKS", {**mini.BLOCKS, "gqa": 31, "vg": 40})
    with pytest.raises(UserError, match="is not the published"):
        miniature(root, expect="published").accept(data.inspect({})[1])


def test_the_oddities_of_the_tree(root: Path) -> None:
    data = miniature(root)
    artifact = store(root).ensure(data.step())
    report = json.loads((artifact.path / "report.json").read_text())
    assert report["rows"] == mini.ROWS
    assert 0.05 < report["text_only"] / mini.ROWS < 0.07
    assert report["duplicate_ids"] > 40
    assert report["left_out_turns"] == 4, "chats that begin with the assistant"
    dataset = data.open(artifact.path)
    assert Counter(dataset.dropped.values()) == {"missing image": 2, "corrupt image": 2}
    assert {dataset.examples[r].images[0] for r in dataset.dropped} == {
        *mini.MISSING,
        *mini.CORRUPT,
    }
    assert dataset.examples[100].id.isdecimal(), "ids that are numbers in the file"
    blank = miniature(root, on_missing_image="blank", on_corrupt_image="blank")
    again = blank.open(store(root).ensure(blank.step()).path)
    assert again.blank_images == dataset.dropped.keys()


def test_lost_images_beyond_the_limit_stop_the_run(root: Path) -> None:
    with pytest.raises(UserError, match=r"2 of 302 rows .*lost_at_most=0\.005.*") as error:
        store(root).ensure(miniature(root, lost_at_most=0.005).step())
    assert "ocr_vqa 2" in str(error.value)


def test_the_key_knows_how_sources_are_told(root: Path) -> None:
    plain = LlavaJson(annotations=str(root / mini.ANNOTATIONS), images=str(root), **DROP)
    assert plain.step().key != miniature(root).step().key
    same = miniature(root, clusters=5, lost_at_most=0.5, name="other")
    assert same.step().key == miniature(root).step().key


# --- verify -----------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [1, 2])
def test_verify_reports_by_source(
    root: Path, tmp_path: Path, processes: int, capsys: pytest.CaptureFixture[str]
) -> None:
    result = verify(miniature(root), tmp_path / "reports", processes=processes)
    assert json.loads((tmp_path / "reports" / "verify_llava.json").read_text()) == result
    assert result["sources"]["ocr_vqa"] == {
        "rows": 36, "ok": 30, "converted": 2, "missing": 2, "corrupt": 2, "rows_touched": 4,
    }  # fmt: skip
    assert result["sources"]["sharegpt"]["ok"] == 0
    assert set(result["missing"]) == set(mini.MISSING)
    assert result["corrupt"].keys() == mini.CORRUPT.keys()
    assert "HTML" in result["corrupt"]["ocr_vqa/images/0471149217.jpg"]
    assert result["converted"] == {
        "16-bit grey, PNG named .jpg": 1,
        "CMYK": 1,
        "EXIF orientation": 1,
        "grey": 1,
        "palette, GIF named .jpg": 1,
        "palette, animation, GIF named .jpg": 1,
    }
    assert result["dropped"] == 4
    printed = capsys.readouterr().out
    assert "4 rows dropped, 0 with a blank picture" in printed
    assert "verify_llava.json" in printed


def test_verify_writes_its_report_before_it_refuses(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="2 x corrupt image"):
        verify(miniature(root, on_corrupt_image="error"), tmp_path / "reports")
    assert (tmp_path / "reports" / "verify_llava.json").is_file()


def test_verify_of_what_is_not_there_or_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="no such file"):
        verify(miniature(tmp_path / "nowhere"), tmp_path)
    assert verify(Demo(), tmp_path) == {}
    assert "nothing to verify" in capsys.readouterr().out


# --- vision_flan ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"task_name": "VQA_activity", "id": "other_1"}, "VQA_activity"),
        ({"id": "PACS+guitar_classification_830"}, "PACS+guitar_classification"),
        ({"id": "x", "image": "PACS+guitar_classification_830_n03272010_10795-5.png"},
         "PACS+guitar_classification"),
        ({"id": 3, "image": "CLEVR+count_12.png"}, "CLEVR+count"),
        ({"id": "7"}, "unknown"),
        ({"task_name": 7, "image": ["a.png"]}, "unknown"),
    ],
)  # fmt: skip
def test_the_source_is_the_task(value: dict[str, Any], expected: str) -> None:
    assert task_of(value) == expected


def flan(root: Path, **options: Any) -> VisionFlan:
    """Twelve rows of three tasks, flat images as the published folder has them."""
    (root / "images_191task_1k").mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(12):
        name = f"task_{'abc'[i % 3]}_{i}.jpg"
        Image.new("RGB", (8, 8), "red").save(root / "images_191task_1k" / name)
        rows.append(row(f"task_{'abc'[i % 3]}_{i}", name, task_name=f"task_{'abc'[i % 3]}"))
    path = root / "annotation_191-task_1k.json"
    path.write_text(json.dumps(rows))
    return VisionFlan(annotations=str(path), images=str(root / "images_191task_1k"), **options)


def test_vision_flan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = flan(tmp_path, expect="any")
    artifact = Store(tmp_path / "store").ensure(data.step())
    assert artifact.facts["sources"] == {"task_a": 4, "task_b": 4, "task_c": 4}
    strict = flan(tmp_path)
    with pytest.raises(UserError, match="got 12 rows of 3 tasks, expected 186,103 of 191"):
        strict.open(artifact.path)
    monkeypatch.setattr(vision_flan, "ROWS", 12)
    monkeypatch.setattr(vision_flan, "TASKS", 3)
    assert len(strict.open(artifact.path)) == 12
