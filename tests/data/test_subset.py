"""Subsets as files, and files made elsewhere as subsets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coincide.data.llava_json import read
from coincide.data.subset import resolve_rows, write_subset
from coincide.schema import Dataset, UserError
from tests.data.files import row, text_row, write

RAW = """[
  {"id": 0, "image": "pics/a.png", "conversations": [
     {"from": "human", "value": "<image>\\nwhat \\u00e4 <b>?"}, {"from": "gpt", "value": "ü"}], "x": 1.50},
  {"id": "same", "conversations": [{"from":"human","value":"q"},{"from":"gpt","value":"a"}]},
  {"id": "same", "conversations": [{"from":"human","value":"q2"},{"from":"gpt","value":"a"}]},
{"id": "twin", "conversations": [{"from":"human","value":"q"},{"from":"gpt","value":"a"}]},
{"id": "twin", "conversations": [{"from":"human","value":"q"},{"from":"gpt","value":"a"}]}, {"id": "last",
 "conversations": [{"from":"human","value":"q"},{"from":"gpt","value":"a"}]}
]"""  # noqa: E501


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return read(write(tmp_path, RAW), tmp_path, name="raw")


def made(folder: Path, value: Any) -> Path:
    path = folder / "mine.json"
    path.write_text(json.dumps(value))
    return path


# --- writing ----------------------------------------------------------------------------------


def test_round_trip(dataset: Dataset, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    write_subset(folder, dataset, [5, 0, 2], {"method": "mine", "select_seconds": 1.25})
    rows = np.load(folder / "rows.npy")
    assert rows.dtype == np.int64
    assert rows.tolist() == [0, 2, 5]
    assert json.loads((folder / "ids.json").read_text()) == ["0", "same", "last"]
    assert json.loads((folder / "facts.json").read_text()) == {"method": "mine"}
    again = read(folder / "subset.json", dataset.image_root, name="again")
    assert [e.turns for e in again.examples] == [dataset.examples[r].turns for r in (0, 2, 5)]
    assert again.examples[0].images == ("pics/a.png",)


def test_rows_are_copied_verbatim(dataset: Dataset, tmp_path: Path) -> None:
    write_subset(tmp_path, dataset, [0, 5], {})
    text = (tmp_path / "subset.json").read_text(encoding="utf-8")
    for start, end in (('{"id": 0', '"x": 1.50}'), ('{"id": "last",\n', '"a"}]}')):
        verbatim = RAW[RAW.index(start) :]
        assert verbatim[: verbatim.index(end) + len(end)] in text


def test_order_of_rows_does_not_change_a_byte(dataset: Dataset, tmp_path: Path) -> None:
    for name, rows in (("one", [4, 1, 0]), ("two", np.array([0, 4, 1], dtype=np.int32))):
        (tmp_path / name).mkdir()
        write_subset(tmp_path / name, dataset, rows, {"k": 3, "seconds": len(name)})
    files = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert files == ["facts.json", "ids.json", "messages.json", "rows.npy", "subset.json"]
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_messages_form(dataset: Dataset, tmp_path: Path) -> None:
    write_subset(tmp_path, dataset, [0, 1], {})
    first, second = json.loads((tmp_path / "messages.json").read_text(encoding="utf-8"))
    assert first == {
        "id": "0",
        "messages": [
            {"role": "user", "content": "<image>\nwhat ä <b>?"},
            {"role": "assistant", "content": "ü"},
        ],
        "images": ["pics/a.png"],
    }
    assert second["images"] == []


@pytest.mark.parametrize(
    ("rows", "message"),
    [([6], r"row indices outside 0\.\.5: 6"), ([-1], "outside"), ([1, 1], "more than once: 1")],
)
def test_wrong_rows_write_nothing(
    dataset: Dataset, tmp_path: Path, rows: list[int], message: str
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(UserError, match=message):
        write_subset(folder, dataset, rows, {})
    assert not list(folder.iterdir())


def test_annotations_that_change_after_they_were_read_change_nothing(
    dataset: Dataset, tmp_path: Path
) -> None:
    write_subset(tmp_path, dataset, [0, 5], {})
    expected = (tmp_path / "subset.json").read_bytes()
    write(tmp_path, [text_row()])
    write_subset(tmp_path, dataset, [0, 5], {})
    assert (tmp_path / "subset.json").read_bytes() == expected
    plain = replace(dataset, examples=tuple(dataset.examples))  # of no table: the file is read
    with pytest.raises(UserError, match="changed during the run"):
        write_subset(tmp_path, plain, [0, 5], {})


# --- resolving --------------------------------------------------------------------------------


def test_rows_by_index_keep_the_order_of_the_file(dataset: Dataset, tmp_path: Path) -> None:
    assert resolve_rows(made(tmp_path, [4, 0, 2]), dataset.examples).tolist() == [4, 0, 2]
    np.save(tmp_path / "mine.npy", np.array([4, 0, 2], dtype=np.uint16))
    rows = resolve_rows(tmp_path / "mine.npy", dataset.examples)
    assert rows.dtype == np.int64
    assert rows.tolist() == [4, 0, 2]


def test_rows_by_id(dataset: Dataset, tmp_path: Path) -> None:
    assert resolve_rows(made(tmp_path, ["last", "0"]), dataset.examples).tolist() == [5, 0]


def test_rows_by_content_where_ids_would_be_ambiguous(dataset: Dataset, tmp_path: Path) -> None:
    records = json.loads(RAW)
    chosen = [records[2], records[0], records[4], records[3]]
    rows = resolve_rows(made(tmp_path, chosen), dataset.examples).tolist()
    assert rows == [2, 0, 3, 4], "identical rows are taken one after the other"


def test_own_output_resolves_to_itself(dataset: Dataset, tmp_path: Path) -> None:
    write_subset(tmp_path, dataset, [1, 2, 4], {})
    assert resolve_rows(tmp_path / "rows.npy", dataset.examples).tolist() == [1, 2, 4]
    write_subset(tmp_path, dataset, [0, 1, 2, 3, 5], {})
    rows = resolve_rows(tmp_path / "subset.json", dataset.examples)
    assert rows.tolist() == [0, 1, 2, 3, 5]


RECORD = json.loads(RAW)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            ["same", "0", "twin"],
            r"2 ids that several rows .*: 'same', 'twin'\.",
        ),
        (["0", "nobody"], r"1 ids that the dataset does not have: 'nobody'\."),
        (["0", "0"], r"1 rows given more than once: 0\."),
        ([0, 6, -1], r"2 row indices outside 0\.\.5: 6, -1\."),
        ([3, 1, 3], r"1 rows given more than once: 3\."),
        ([0, "last"], "entries of type int, str; expected all row indices"),
        ([0, True], "entries of type bool, int"),
        ([0.0, 1.0], "entries of type float"),
        (
            [RECORD[0], {"id": "new", **RECORD[1], "conversations": [1]}],
            "entries that are no LLaVA",
        ),
        ([RECORD[0], {**RECORD[1], "id": "new"}], r"does not have, or not that often: 1\."),
        ([RECORD[3]] * 3, r"does not have, or not that often: 2\."),
        ([], "an empty list"),
    ],
)
def test_what_cannot_be_resolved_is_refused(
    dataset: Dataset, tmp_path: Path, entries: list[Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        resolve_rows(made(tmp_path, entries), dataset.examples)
    assert "mine.json" in str(error.value)


def test_the_first_ten_are_named(tmp_path: Path) -> None:
    rows = [row(f"d{i // 2}") for i in range(30)]
    dataset = read(write(tmp_path, rows), tmp_path, name="x")
    with pytest.raises(
        UserError, match=r"15 ids that several rows .*'d0', .*'d9', \.\.\.\."
    ) as error:
        resolve_rows(made(tmp_path, [f"d{i}" for i in range(15)]), dataset.examples)
    assert "'d10'" not in str(error.value)


def test_rows_without_id_are_never_meant_by_an_empty_id(tmp_path: Path) -> None:
    dataset = read(write(tmp_path, [row(None)]), tmp_path, name="x")
    with pytest.raises(UserError, match="does not have"):
        resolve_rows(made(tmp_path, [""]), dataset.examples)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([0.0, 1.0]), r"expected integer row indices \[k\], got float64 \[2\]"),
        (np.zeros((2, 2), int), r"got int64 \[2, 2\]"),
        (np.array([], dtype=int), "an empty array"),
        (np.array([{}], dtype=object), "no array of row indices"),
    ],
)
def test_arrays_that_are_no_rows(
    dataset: Dataset, tmp_path: Path, array: np.ndarray, message: str
) -> None:
    np.save(tmp_path / "mine.npy", array, allow_pickle=True)
    with pytest.raises(UserError, match=message):
        resolve_rows(tmp_path / "mine.npy", dataset.examples)


def test_broken_npy(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "mine.npy").write_bytes(b"\x93NUMPY\x01")
    with pytest.raises(UserError, match="no array of row indices"):
        resolve_rows(tmp_path / "mine.npy", dataset.examples)
