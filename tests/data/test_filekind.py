"""Annotations by what is in the file: the same rows in every kind, whatever the name."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coincide.data import rows
from coincide.data.llava_json import read
from coincide.data.messages import read_messages
from coincide.data.rows import scan
from coincide.schema import UserError
from tests.data.files import row, text_row, write

ROWS = [row("ä"), text_row("b"), row("c", x=1.5)]
LIST = json.dumps(ROWS, ensure_ascii=False, indent=1)
LINES = "\r\n".join(json.dumps(r, ensure_ascii=False) for r in ROWS) + "\n\n"


def parquet(rows: list[dict[str, Any]], path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path)


KINDS: dict[str, Callable[[str], bytes]] = {
    "UTF-8": str.encode,
    "byte-order mark": lambda text: text.encode("utf-8-sig"),
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16 big end first": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
    "UTF-16 without a mark": lambda text: text.encode("utf-16-le"),
    "UTF-32": lambda text: text.encode("utf-32"),
    "gzip": lambda text: gzip.compress(text.encode(), mtime=0),
    "gzip of UTF-16": lambda text: gzip.compress(text.encode("utf-16"), mtime=0),
    "bzip2": lambda text: bz2.compress(text.encode()),
    "xz": lambda text: lzma.compress(text.encode()),
}


@pytest.mark.parametrize("text", [LIST, LINES], ids=["list", "lines"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_rows_in_every_kind_of_file(tmp_path: Path, kind: str, text: str) -> None:
    path = tmp_path / "rows.txt"  # the name says nothing
    path.write_bytes(KINDS[kind](text))
    found = list(scan(path))
    assert [(number, value) for number, _, value in found] == list(enumerate(ROWS))
    assert all(json.loads(verbatim) == value for _, verbatim, value in found)
    assert [value for _, _, value in read_messages(path, tmp_path)] == [
        {**value, **({"image": [value["image"]]} if "image" in value else {})} for value in ROWS
    ]


class Bar:
    """Stands for the bar of a terminal: what it was told."""

    total, n = 0, 0

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None: ...

    def update(self, n: int) -> None:
        self.n += n


@pytest.mark.parametrize("kind", ["UTF-8", "UTF-16", "gzip", "parquet"])
@pytest.mark.parametrize("text", [LIST, LINES], ids=["list", "lines"])
def test_a_bar_shows_how_much_is_read(
    tmp_path: Path, kind: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = Bar()
    monkeypatch.setattr(rows, "bar", lambda stage, **told: shown)
    path = tmp_path / "rows.txt"
    parquet(ROWS, path) if kind == "parquet" else path.write_bytes(KINDS[kind](text))
    halfway = [shown.n for _ in scan(path)][1:]
    assert 0 < halfway[0] < halfway[1] < shown.n
    if kind != "gzip" or text == LIST:  # else only unpacking it would tell
        assert shown.total - 4 <= shown.n <= shown.total


def test_parquet_is_read_by_both_readers(tmp_path: Path) -> None:
    write(tmp_path, [])
    path = tmp_path / "train.json"
    parquet(ROWS, path)
    dataset = read(path, tmp_path, name="x")
    assert [(e.id, len(e.images)) for e in dataset.examples] == [("ä", 1), ("b", 0), ("c", 1)]
    assert [value["id"] for _, _, value in read_messages(path, tmp_path)] == ["ä", "b", "c"]
    (tmp_path / "cut").write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="is Parquet by its first bytes and cannot be read"):
        list(scan(tmp_path / "cut"))


def test_json_lines_and_one_row_alone_are_read_as_llava_json(tmp_path: Path) -> None:
    assert len(read(write(tmp_path, LINES), tmp_path, name="x")) == 3
    assert len(read(write(tmp_path, json.dumps(ROWS[0])), tmp_path, name="x")) == 1
    assert len(read(write(tmp_path, json.dumps(ROWS[0], indent=1)), tmp_path, name="x")) == 1


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "`git lfs pull`"),
        (b"ARROW1\0\0", "an Arrow file"),
        (b"\xff\xff\xff\xff\x10\0\0\0", "an Arrow stream"),
        (b"\x28\xb5\x2f\xfd\0", "compressed by zstd"),
        (b"\x93NUMPY\x01\0", "a numpy array"),
        (b"\x80\x04\x95", "a pickle, which is not loaded"),
        (b"SQLite format 3\0", "an SQLite database"),
        (b"\n<!DOCTYPE html><html>", "an HTML or XML page"),
        (b"\0" * 257 + b"ustar", "a tar archive"),
        (gzip.compress(b"\0" * 257 + b"ustar", mtime=0), "a tar archive"),
        (
            gzip.compress(LIST.encode(), mtime=0)[:-9],
            "compressed by gzip and cannot be unpacked whole",
        ),
        (lzma.compress(LIST.encode())[:-9], "compressed by xz and cannot be unpacked whole"),
        (LIST.encode("utf-16")[:-1], "begins as UTF-16 but is none at byte"),
        (LIST.encode("latin-1"), "not UTF-8 at byte"),
        (b"datasets:\n  - a.json\n", "text that begins with 'datasets:"),
        (gzip.compress(gzip.compress(b"[]", mtime=0), mtime=0), "compressed once more inside"),
        (gzip.compress(b"PAR1", mtime=0), "Parquet inside; unpack it"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_named(tmp_path: Path, content: bytes, named: str) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        list(scan(path))
    assert named in str(error.value)
    assert str(path) in str(error.value)


def test_a_zip_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("rows.json", LIST)
    with pytest.raises(UserError, match=r"a zip archive .*unpack it"):
        list(scan(path))
