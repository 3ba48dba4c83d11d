"""``method=from_file``: every form in which subsets are handed on, and what is unclear in them."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from baselines.from_file import FromFile
from coincide.data.llava_json import read
from coincide.data.resolve import resolve_rows
from coincide.schema import Example, UserError
from tests.data.files import row, text_row, write

WANTED = [4, 0, 2]
IDS = [f"row_{i}" for i in range(6)]


@pytest.fixture
def examples(tmp_path: Path) -> tuple[Example, ...]:
    rows = [row(name, question=f"<image>\nwhat {name}?") for name in IDS]
    return tuple(read(write(tmp_path, rows), tmp_path, name="d").examples)


@pytest.fixture
def numbered(tmp_path: Path) -> tuple[Example, ...]:
    """Rows whose ids are the integers 1 to 6."""
    return tuple(read(write(tmp_path, [row(i) for i in range(1, 7)]), tmp_path, name="n").examples)


def lines(*entries: Any) -> str:
    return "\n".join(map(str, entries)) + "\n"


MASK = [i in WANTED for i in range(6)]
ROWS = [row(IDS[i], question=f"<image>\nwhat row_{i}?") for i in WANTED]
CHAT = [
    {
        "id": IDS[i],
        "messages": [
            {"role": "user", "content": f"<image>\nwhat row_{i}?"},
            {"role": "assistant", "content": "red"},
        ],
        "images": [f"/elsewhere/pics/{name}" for name in ("a.png",)],
    }
    for i in WANTED
]
TEXTS = {
    "list of rows": json.dumps(WANTED),
    "list of ids": json.dumps([IDS[i] for i in WANTED]),
    "list of records": json.dumps(ROWS),
    "list of messages": json.dumps(CHAT),
    "a mask": json.dumps(MASK),
    "a mask in lines": lines("selected", *MASK),
    "json lines of records": lines(*map(json.dumps, ROWS)),
    "json lines of messages": lines(*map(json.dumps, CHAT)),
    "json lines of ids": lines(*(json.dumps(IDS[i]) for i in WANTED)),
    "json lines of rows": lines(*WANTED),
    "json lines that name ids": lines(*(json.dumps({"id": IDS[i], "score": 1}) for i in WANTED)),
    "json lines that name rows": lines(*(json.dumps({"index": i}) for i in WANTED)),
    "a line each": lines(*WANTED),
    "a line each with blanks": "\n 4\n\n0\r\n2\r\n",
    "with a header": lines("index", *WANTED),
    "with a header of its own": lines("my choice", *WANTED),
    "ids": lines(*(IDS[i] for i in WANTED)),
    "ids with a header": lines("id", *(IDS[i] for i in WANTED)),
    "on one line": "4,0,2\n",
    "on one line with blanks": "4, 0, 2\n",
    "on one line, blanks alone": "4 0 2\n",
    "csv with quotes": lines('"id","x"', *(f'"{IDS[i]}","1"' for i in WANTED)),
    "csv": pd.DataFrame({"idx": WANTED, "score": 0.5}).to_csv(),
    "csv of ids": pd.DataFrame({"id": [IDS[i] for i in WANTED], "loss": 1.0}).to_csv(index=False),
    "tsv": pd.DataFrame({"row": WANTED, "n": 1}).to_csv(index=False, sep="\t"),
    "object of rows": json.dumps({"indices": WANTED, "seed": 0}),
    "object of ids": json.dumps({"selected": [IDS[i] for i in WANTED]}),
    "object of a row": lines(json.dumps(ROWS[0]), *map(json.dumps, ROWS[1:])),
}


@pytest.mark.parametrize("form", TEXTS)
def test_each_form_of_text_names_the_same_rows(
    form: str, examples: tuple[Example, ...], tmp_path: Path
) -> None:
    expected = sorted(WANTED) if form.startswith("a mask") else WANTED
    text = TEXTS[form]
    for name, data in (
        ("plain.json", text.encode()),
        ("marked.txt", b"\xef\xbb\xbf" + text.encode()),
        ("wide", text.encode("utf-16")),
        ("wide too", text.encode("utf-16-le")),
        ("small.npy", gzip.compress(text.encode(), mtime=0)),
        ("small.txt", bz2.compress(text.encode())),
        ("small.csv", lzma.compress(text.encode())),
    ):
        (tmp_path / name).write_bytes(data)
        assert resolve_rows(tmp_path / name, examples).tolist() == expected, name


ARRAYS: dict[str, Callable[[Path], Any]] = {
    "rows": lambda p: np.save(p, np.array(WANTED, np.uint16)),
    "mask": lambda p: np.save(p, np.array(MASK)),
    "ids": lambda p: np.save(p, np.array([IDS[i] for i in WANTED])),
    "archive": lambda p: np.savez(p.with_suffix(".npz"), kept=np.array(WANTED)),
    "archive of two": lambda p: np.savez(p.with_suffix(".npz"), indices=WANTED, scores=[0.1]),
    "parquet of rows": lambda p: pd.DataFrame({"row": WANTED}).to_parquet(p),
    "parquet of ids": lambda p: pd.DataFrame({"id": [IDS[i] for i in WANTED]}).to_parquet(p),
    "parquet of records": lambda p: pd.DataFrame(CHAT).to_parquet(p),
    "table": lambda p: pd.DataFrame(
        {"row": range(6), "id": IDS, "score": np.nan, "selected": MASK}
    ).to_parquet(p),
}


@pytest.mark.parametrize("form", ARRAYS)
def test_each_binary_form_names_the_same_rows(
    form: str, examples: tuple[Example, ...], tmp_path: Path
) -> None:
    ARRAYS[form](tmp_path / "mine.npy")
    path = tmp_path / ("mine.npz" if "archive" in form else "mine.npy")
    found = resolve_rows(path.rename(tmp_path / "subset.txt"), examples).tolist()
    assert found == (sorted(WANTED) if form in ("mask", "table") else WANTED)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "an empty file"),
        (json.dumps([True, False]), r"a mask of 2 values .* the dataset has 6 rows"),
        (json.dumps([False] * 6), "without one true value"),
        (json.dumps({"a": [1], "b": [2]}), r"a JSON object with 'a', 'b'; expected one list"),
        (json.dumps({"row_1": 0.3, "row_2": 0.1}), "expected one list"),
        (json.dumps({"indices": []}), "an empty list"),
        ('{"id": "row_1"}\n{"id": ', "malformed JSON in line 2"),
        ("[1, 2", "malformed JSON at byte"),
        ("1.0\n2.0\n", r"2 ids that the dataset does not have: '1.0', '2.0'"),
        ("a,b\n1,2\n", r"a table without a column row, index or id; it has 'a', 'b'"),
        ("row,b\n1,2\n3\n", "lines of unlike length"),
        ("row,b\nx,2\n", "got 'x' as a row index"),
        ("row,selected\n1,maybe\n", "the column selected holds 'maybe'"),
        ("row,selected\n1,False\n", "no row is selected"),
        ("row,id\n1,row_1\n2,other\n", r"1 rows at which the dataset has another id .*: 2\."),
        ("id\nrow_1\nrow_1\n", r"1 rows given more than once: 1\."),
        ("index\n1\n6\n", r"1 row indices outside 0\.\.5: 6\."),
        (b"\x80\x04\x95", "a pickle, which may run code"),
        (b"\x1f\x8b\x08", "cannot be unpacked whole"),
        (b"PK\x03\x04", "a broken archive"),
        (b"PAR1", "broken parquet"),
        ("\xe9".encode("latin-1"), "not UTF-8 at byte 0"),
    ],
)
def test_what_is_no_subset_is_named(
    content: str | bytes, message: str, examples: tuple[Example, ...], tmp_path: Path
) -> None:
    path = tmp_path / "mine.npy"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError, match=message) as error:
        resolve_rows(path, examples)
    assert "mine.npy" in str(error.value)


def test_an_archive_of_two_arrays_is_refused_by_their_names(
    examples: tuple[Example, ...], tmp_path: Path
) -> None:
    np.savez(tmp_path / "x.npz", a=[1], b=[2])
    with pytest.raises(UserError, match=r"holds 'a.npy', 'b.npy'.*method=from_file takes"):
        resolve_rows(tmp_path / "x.npz", examples)


# --- integers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["[3, 5]", "3\n5\n", '{"chosen": [3, 5]}', "[0, 5]", "[3, 6]"])
def test_integers_are_unclear_where_the_ids_are_integers(
    text: str, numbered: tuple[Example, ...], tmp_path: Path
) -> None:
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"method\.by=row or method\.by=id"):
        resolve_rows(path, numbered)


def test_it_is_said_which_integers_are_meant(numbered: tuple[Example, ...], tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text("[3, 5]")
    assert resolve_rows(path, numbered, by="row").tolist() == [3, 5]
    assert resolve_rows(path, numbered, by="id").tolist() == [2, 4]
    path.write_text('["3", "5"]')
    assert resolve_rows(path, numbered).tolist() == [2, 4]
    assert resolve_rows(path, numbered, by="row").tolist() == [3, 5]
    path.write_text('{"rows": [3, 5]}')
    assert resolve_rows(path, numbered).tolist() == [3, 5]
    path.write_text("id\n3\n5\n")
    assert resolve_rows(path, numbered).tolist() == [2, 4]
    np.save(tmp_path / "mine.npy", np.array([3, 5]))
    assert resolve_rows(tmp_path / "mine.npy", numbered).tolist() == [3, 5]
    assert resolve_rows(tmp_path / "mine.npy", numbered, by="id").tolist() == [2, 4]


def test_integers_are_clear_where_ids_are_the_rows_or_are_words(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text("[2, 0]")
    for names in (range(4), [str(i) for i in range(4)], ["a", "b", "c", 2], [None] * 4):
        dataset = read(write(tmp_path, [row(n) for n in names]), tmp_path, name="d")
        if list(names) == ["a", "b", "c", 2]:
            path.write_text("[2]")  # row 2, or the id of row 3
            with pytest.raises(UserError, match="2 is row 2 or the id 2"):
                resolve_rows(path, dataset.examples)
            path.write_text("[2, 0]")  # no id is 0
        assert resolve_rows(path, dataset.examples).tolist() == [2, 0]


def test_padded_digits_are_ids(tmp_path: Path) -> None:
    names = ["000000000003", "000000000001", "000000000000"]
    examples = read(write(tmp_path, [row(n) for n in names]), tmp_path, name="d").examples
    path = tmp_path / "ids.txt"
    path.write_text(lines(names[1], names[0]))
    assert resolve_rows(path, examples).tolist() == [1, 0]


def test_by_is_a_setting_with_choices_and_in_the_key_where_it_is_said(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text("[1]")
    assert FromFile(str(path)).key_config().keys() == {"sha256"}
    assert FromFile(str(path), by="id").key_config()["by"] == "id"
    with pytest.raises(UserError, match=r"method\.by='rows': the choices are auto, row, id"):
        FromFile(str(path), by="rows")
    with pytest.raises(UserError, match=r"no such file.*\n?.*method=from_file takes"):
        FromFile(str(tmp_path / "nowhere"))


# --- records ------------------------------------------------------------------------------------


def test_records_are_matched_by_pictures_and_text_and_by_an_id_that_one_row_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        row("a"), row("b", image="pics/b.png"), row(None), row("c", question="<image>\nother?"),
        text_row(None),
    ]  # fmt: skip
    dataset = read(write(tmp_path, rows, ("pics/a.png", "pics/b.png")), tmp_path, name="d")
    path = tmp_path / "mine.json"

    def found(*records: dict[str, Any]) -> list[int]:
        path.write_text(json.dumps(records))
        return resolve_rows(path, dataset.examples).tolist()

    bare = [{k: v for k, v in record.items() if k != "id"} for record in rows]
    assert found(bare[1], bare[3], bare[4]) == [1, 3, 4]
    assert found(bare[0]) == [2], "the row that has no id either, not the one with id a"
    with pytest.raises(UserError, match=r"not that often: 1\."):
        found(bare[1], {**bare[1], "image": "other/pics2/b.png"})
    with pytest.raises(UserError, match=r"whose id the dataset has with other images or text: 0"):
        found({**rows[0], "image": "pics/b.png"})
    retold = {**rows[3], "conversations": rows[0]["conversations"]}
    assert found(retold) == [3], "one row has this id, of the same picture"
    assert "1 entries say their row" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"not that often: 1\."):
        found(rows[3], retold)
    with pytest.raises(UserError, match="no LLaVA rows nor messages: 0"):
        found({"conversations": "x"})


def test_a_record_that_rows_of_several_ids_fit_is_unclear(tmp_path: Path) -> None:
    dataset = read(write(tmp_path, [row("a"), row("b")]), tmp_path, name="d")
    path = tmp_path / "mine.json"
    path.write_text(json.dumps([row(None)]))
    with pytest.raises(UserError, match=r"rows of several ids fit alike; give ids: 0\."):
        resolve_rows(path, dataset.examples)
