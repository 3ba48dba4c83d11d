"""Exports for other trainers: what they read is what the product trains on, and it comes back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from coincide import export
from coincide.data.exports import as_llava, as_messages, read_rows
from coincide.data.llava_json import read
from coincide.data.messages import Messages
from coincide.data.resolve import resolve_rows
from coincide.data.subset import write_subset
from coincide.schema import Dataset, Example
from tests.mini import llava665k, odd

FORMS = ("llava", "llamafactory", "sharegpt", "messages", "swift", "trl", "axolotl", "parts")
PARTED = ("trl", "axolotl", "parts")


def artifact(folder: Path, dataset: Dataset, rows: Sequence[int]) -> Path:
    folder.mkdir(parents=True)
    write_subset(folder, dataset, rows, {"rows": len(dataset)})
    return folder


@pytest.fixture(scope="module")
def oddities(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Path]:
    root = tmp_path_factory.mktemp("odd")
    dataset = read(odd.make(root), root, name="odd", tags_as_text=True)
    return dataset, artifact(root / "subset", dataset, range(len(dataset)))


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Path]:
    root = tmp_path_factory.mktemp("mini")
    dataset = read(llava665k.make(root), root, name="mini", on_missing_image="drop")
    rows = [row for row in range(len(dataset)) if row not in dataset.dropped]
    return dataset, artifact(root / "subset", dataset, rows)


def exported(folder: Path, form: str, out: Path, *words: str) -> Any:
    assert export.main([str(folder), "--as", form, "--out", str(out), *words]) == 0
    return json.loads(out.read_text(encoding="utf-8"))


def roles(record: dict[str, Any]) -> list[str]:
    names = {"human": "user", "gpt": "assistant"}
    said = record.get("messages") or record["conversations"]
    found = [turn.get("role", turn.get("from")) for turn in said]
    return [names.get(role, role) for role in found]


def texts(record: dict[str, Any]) -> list[str]:
    """Each turn as text, ``<image>`` where a picture stands."""
    found = []
    for turn in record.get("messages") or record["conversations"]:
        content = turn.get("content", turn.get("value"))
        if isinstance(content, list):
            parts = ["<image>" if part["type"] == "image" else part["text"] for part in content]
            content = "\n".join(parts)
        found.append(content)
    return found


def pictures(record: dict[str, Any]) -> list[str]:
    inline = [
        part.get("image", part.get("path"))
        for turn in record.get("messages", ())
        for part in (turn["content"] if isinstance(turn["content"], list) else ())
        if part["type"] == "image" and len(part) > 1
    ]
    listed = record.get("images", record.get("image")) or []
    return [*inline, *(listed if isinstance(listed, list) else [listed])]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("data", ["oddities", "miniature"])
def test_every_form_says_the_rows_as_they_are_trained_on_and_comes_back(
    data: str, form: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    dataset, folder = request.getfixturevalue(data)
    rows = np.load(folder / "rows.npy").tolist()
    records = exported(folder, form, tmp_path / "x.json")
    raw = json.loads((folder / "subset.json").read_text(encoding="utf-8"))
    assert len(records) == len(rows)
    for record, row, source in zip(records, rows, raw, strict=True):
        example: Example = dataset.examples[row]
        system = [t["value"] for t in source["conversations"] if t["from"] == "system"]
        asked = [("user" if turn.role == "human" else "assistant") for turn in example.turns]
        assert roles(record) == [*(["system"] * len(system)), *asked]
        assert texts(record) == [*system, *(turn.text for turn in example.turns)]
        assert pictures(record) == list(example.images)
        assert record.get("id", "") == example.id
        assert record.get("id") != ""
    found = resolve_rows(tmp_path / "x.json", dataset.examples).tolist()
    assert found == rows


@pytest.mark.parametrize("form", FORMS)
def test_no_column_has_two_types(form: str, oddities: tuple[Dataset, Path], tmp_path: Path) -> None:
    """What Arrow of every version reads: LLaVA json alone needs a path here and a list there."""
    records = exported(oddities[1], form, tmp_path / "x.json")
    kinds = {
        name: {type(record[name]) for record in records if record.get(name) is not None}
        for record in records
        for name in record
    }
    several = {name for name, found in kinds.items() if len(found) > 1}
    assert several == ({"image"} if form == "llava" else set())
    if form in PARTED:
        said = [turn["content"] for record in records for turn in record["messages"]]
        assert {type(content) for content in said} == {list}


@pytest.mark.parametrize("form", [form for form in FORMS if form != "llava"])
def test_the_library_that_trainers_load_with_keeps_every_value(
    form: str, oddities: tuple[Dataset, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    from datasets import load_dataset

    records = exported(oddities[1], form, tmp_path / "x.json")
    cache = str(tmp_path / "cache")
    loaded = load_dataset(
        "json", data_files=str(tmp_path / "x.json"), split="train", cache_dir=cache
    )

    def bare(value: Any) -> Any:
        """Without the nulls by which a table fills absent keys."""
        if isinstance(value, dict):
            return {key: bare(item) for key, item in value.items() if item is not None}
        return [bare(item) for item in value] if isinstance(value, list) else value

    assert [bare(row) for row in loaded] == [bare(record) for record in records]


@pytest.mark.parametrize("form", FORMS)
def test_data_messages_reads_an_export_as_the_same_turns(
    form: str, oddities: tuple[Dataset, Path], tmp_path: Path
) -> None:
    dataset, folder = oddities
    exported(folder, form, tmp_path / "x.json")
    source = Messages(str(tmp_path / "x.json"), str(dataset.image_root), on_media_tag="text")
    again, report = source.inspect({})
    assert not report.problems
    marked = form in ("trl", "axolotl", "llamafactory", "sharegpt")
    for old, new in zip(dataset.examples, again.examples, strict=True):
        assert (new.id, new.images) == (old.id, old.images)
        assert [(turn.role, turn.text) for turn in new.turns] == [
            (turn.role, turn.text) for turn in old.turns
        ]
        if not marked:
            assert [turn.learn for turn in new.turns] == [turn.learn for turn in old.turns]


def test_marks_stay_where_a_form_has_a_word_for_them(
    oddities: tuple[Dataset, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for form in ("messages", "swift", "parts"):
        record = exported(oddities[1], form, tmp_path / f"{form}.json")[-1]
        assert [turn.get("loss") for turn in record["messages"]] == [None, False, None, None]
        told = "ms-swift honours the mark" in capsys.readouterr().out
        assert told == (form == "parts")
    for form in ("llamafactory", "trl", "axolotl"):
        exported(oddities[1], form, tmp_path / f"{form}.json")
        assert "1 rows have answers marked as not to be learnt" in capsys.readouterr().out


def test_what_a_reader_takes_otherwise_is_counted_and_told(
    oddities: tuple[Dataset, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    number = next(e.row for e in oddities[0].examples if "<video>" in e.turns[0].text)
    exported(oddities[1], "llamafactory", tmp_path / "x.json")
    out = capsys.readouterr().out
    assert "1 rows have <video> or <audio> as plain text: LLaMA-Factory stops with" in out
    assert f"rows {number}" in out
    assert "export VIDEO_PLACEHOLDER=" in (tmp_path / "x.llamafactory.sh").read_text()
    exported(oddities[1], "llava", tmp_path / "y.json")
    assert "2 rows have a system prompt" in capsys.readouterr().out
    exported(oddities[1], "axolotl", tmp_path / "z.json")
    rows = len(oddities[0].examples)
    assert f"{rows} rows have questions, which axolotl learns too" in capsys.readouterr().out


def test_a_system_prompt_beside_the_turns_stays(tmp_path: Path) -> None:
    """As ShareGPT and LLaMA-Factory have it: a field of the row."""
    said = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    path = tmp_path / "subset.json"
    path.write_text(json.dumps([{"conversations": said, "system": "be brief"}]))
    (row,) = read_rows(path)
    assert as_messages(row)["messages"][0] == {"role": "system", "content": "be brief"}
    assert as_llava(row) == row.record


def test_llava_rows_that_need_no_change_are_copied_byte_for_byte(
    oddities: tuple[Dataset, Path], tmp_path: Path
) -> None:
    exported(oddities[1], "llava", tmp_path / "x.json")
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    raw = (oddities[1] / "subset.json").read_text(encoding="utf-8")
    begin = raw.index('{\n  "id": "plain_3"')
    assert raw[begin : raw.index("},", begin)] in text
    records = {record.get("id"): record for record in json.loads(text)}
    assert "image" not in records["null"], "LLaVA's loader opens an image that is null"
    assert records["0"]["image"] == "p/0.png"
    assert [turn["from"] for turn in records["greeting"]["conversations"]] == ["human", "gpt"]


# --- pictures -----------------------------------------------------------------------------------


def test_pictures_are_named_absolutely_or_copied_beside_the_file(
    oddities: tuple[Dataset, Path], tmp_path: Path
) -> None:
    dataset, folder = oddities
    root = ["--image-root", str(dataset.image_root)]
    absolute = exported(folder, "swift", tmp_path / "a.json", "--images", "absolute", *root)
    out = tmp_path / "out" / "c.json"
    copied = exported(folder, "parts", out, "--images", "copy", *root)
    for one, other in zip(absolute, copied, strict=True):
        for here, there in zip(pictures(one), pictures(other), strict=True):
            assert Path(here).read_bytes() == (out.parent / there).read_bytes()
    for path in (tmp_path / "a.json", out):
        assert resolve_rows(path, dataset.examples).tolist() == list(range(len(dataset)))


@pytest.mark.parametrize("images", ["absolute", "copy"])
def test_pictures_need_a_root_that_is_there(
    images: str, oddities: tuple[Dataset, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(oddities[1]), "--as", "llava", "--out", str(tmp_path / "x"), "--images", images]
    assert export.main(words) == 2
    assert "expected --image-root FOLDER" in capsys.readouterr().err
    assert export.main([*words, "--image-root", str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_lost_pictures_are_told(
    oddities: tuple[Dataset, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exported(oddities[1], "llava", tmp_path / "x.json", "--image-root", str(tmp_path))
    assert "19 pictures are not below" in capsys.readouterr().out


# --- what starts a trainer ------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["llamafactory", "swift", "trl", "axolotl"])
def test_three_lines_start_a_trainer(
    form: str, oddities: tuple[Dataset, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "my data" / "x.json"
    exported(oddities[1], form, out)
    assert "IMAGE_ROOT stands for the image root" in capsys.readouterr().out
    root = oddities[0].image_root
    exported(oddities[1], form, out, "--image-root", str(root))
    printed = capsys.readouterr().out
    lines = (out.parent / f"x.{form}.sh").read_text().splitlines()
    assert len(lines) == 3
    assert all(f"    {line}" in printed for line in lines)
    beside = {path.name: path.read_text() for path in out.parent.iterdir() if path != out}
    assert any(str(root) in text for text in beside.values())
    for name, text in beside.items():
        if name.endswith(".py"):
            compile(text, name, "exec")
        if name.endswith(".yaml"):
            assert isinstance(yaml.safe_load(text), dict)
    assert not any("IMAGE_ROOT" in text.replace("ROOT_IMAGE_DIR", "") for text in beside.values())


def test_other_entries_of_dataset_info_stay(
    oddities: tuple[Dataset, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    info = tmp_path / "dataset_info.json"
    info.write_text('{"other": {"file_name": "o.json"}, "x": {}}')
    exported(oddities[1], "llamafactory", tmp_path / "x.json")
    found = json.loads(info.read_text())
    assert found["other"] == {"file_name": "o.json"}
    assert found["x"]["columns"] == {"messages": "conversations", "images": "images"}
    info.write_text("[1]")
    words = [str(oddities[1]), "--as", "llamafactory", "--out", str(tmp_path / "x.json")]
    assert export.main(words) == 2
    assert "expected a JSON object of datasets" in capsys.readouterr().err


# --- ids and the table ----------------------------------------------------------------------------


def test_ids_cannot_name_rows_that_have_none(
    oddities: tuple[Dataset, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(oddities[1]), "--as", "ids", "--out", str(tmp_path / "ids.json")]
    assert export.main(words) == 2
    assert "1 rows of" in capsys.readouterr().err
    assert not (tmp_path / "ids.json").exists()


def test_the_table_has_every_row_and_what_selection_knows_of_it(
    oddities: tuple[Dataset, Path], tmp_path: Path
) -> None:
    dataset, _ = oddities
    store = tmp_path / "store"
    folder = artifact(store / "subset" / "m-00000000000a", dataset, [7, 2, 5])
    np.save(folder / "order.npy", np.array([7, 2, 5, 1, 30]))
    needs = {"needs.0.data": "d-00000000000b", "needs.1.clusters": "c-00000000000c",
             "needs.2.scores": "s-00000000000d"}  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps({"needs": needs}))
    score = np.arange(len(dataset), dtype=np.float32)
    score[3] = np.nan
    cluster = np.array([-1, *range(len(dataset) - 1)], np.int32)
    for name, file, values in (
        ("data/d-00000000000b", "", None),
        ("clusters/c-00000000000c", "assignment.npy", cluster),
        ("scores/s-00000000000d", "score.npy", score),
    ):
        (store / name).mkdir(parents=True)
        (store / name / "manifest.json").write_text("{}")
        if values is not None:
            np.save(store / name / file, values)
    index = pd.DataFrame(
        {"row": range(len(dataset)), "id": [e.id for e in dataset.examples], "source": "mine",
         "images": 1, "turns": 2, "dropped": [None, "missing image"] + [None] * (len(dataset) - 2)}
    )  # fmt: skip
    index.to_parquet(store / "data" / "d-00000000000b" / "examples.parquet")
    out = tmp_path / "all.parquet"
    assert export.main([str(folder), "--as", "table", "--out", str(out)]) == 0
    table = pd.read_parquet(out, dtype_backend="pyarrow")
    assert table["row"].tolist() == list(range(len(dataset)))
    assert table["selected"].to_numpy().nonzero()[0].tolist() == [2, 5, 7]
    assert table["rank"].dropna().to_dict() == {7: 0, 2: 1, 5: 2, 1: 3, 30: 4}
    assert table["score"].isna().to_numpy().nonzero()[0].tolist() == [3]
    assert table["cluster"].isna().to_numpy().nonzero()[0].tolist() == [0]
    assert table["dropped"].dropna().to_dict() == {1: "missing image"}
    assert resolve_rows(out, dataset.examples).tolist() == [2, 5, 7]
    cut = table.sort_values("rank").head(4)[["row"]]
    cut.to_csv(tmp_path / "cut.csv", index=False)
    assert resolve_rows(tmp_path / "cut.csv", dataset.examples).tolist() == [7, 2, 5, 1]


def test_the_table_of_a_subset_alone_leaves_null_what_it_does_not_know(
    oddities: tuple[Dataset, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset, folder = oddities
    (folder / "manifest.json").write_text("{}")
    out = tmp_path / "all.parquet"
    assert export.main([str(folder), "--as", "table", "--out", str(out)]) == 0
    assert "the data artifact is not in the store" in capsys.readouterr().out
    table = pd.read_parquet(out)
    assert table[["score", "cluster", "rank", "source"]].isna().all().all()
    assert table["selected"].all()
    assert resolve_rows(out, dataset.examples).tolist() == list(range(len(dataset)))
