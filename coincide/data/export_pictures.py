"""Pictures of a subset for other trainers, which open files, or Parquet with pictures inside."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from coincide.data.cells import cell_of
from coincide.data.exports import ExportRow, read_rows
from coincide.data.images import BadImage, open_picture
from coincide.data.inline import suffix_of
from coincide.system.files import write_atomic

GROUP = 64
"""Rows of a row group: what is read to reach one picture."""


def shows_cells(subset: Path) -> bool:
    """Whether a row of a ``subset.json`` shows a picture that lies inside a shard."""
    return any(cell_of(name) for row in read_rows(subset) for name in row.images)


class PictureFiles:
    """Writes pictures as files below a folder, each once, and says where."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root, self.folder = root, folder
        self.written: dict[str, str] = {}
        self.missing: set[str] = set()
        """Those that could not be read."""

    def place(self, name: str) -> str:
        """The path of the picture ``name`` below the folder, where it is written now.

        One inside a shard becomes ``<shard>/<row>-<column>-<index>`` with the suffix of its format.
        """
        if name not in self.written:
            self.written[name] = self._write(name)
        return self.written[name]

    def _write(self, name: str) -> str:
        cell = cell_of(name)
        try:
            with open_picture(self.root, name) as stream:
                content = stream.read()
        except BadImage:
            self.missing.add(name)
            content = b""
        if cell:
            column = quote(cell.column, safe="")
            name = f"{cell.shard}/{cell.row}-{column}-{cell.nth}{suffix_of(content)}"
        if content:
            target = self.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(target, lambda path: _written(path, content))
        return name


def _written(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def write_parquet(subset: Path, root: Path, out: Path) -> tuple[int, set[str]]:
    """Write a ``subset.json`` as one Parquet file with its pictures inside: ``id``, ``images``
    (``datasets.Image``), ``conversations`` and ``source``, as ``data=parquet`` reads it.

    Returns the number of rows, and the pictures that could not be read, which are null.
    """
    import pyarrow as pa
    from pyarrow import parquet

    said = pa.struct([("from", pa.string()), ("value", pa.string())])
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema(
        {
            "id": pa.string(),
            "images": pa.list_(image),
            "conversations": pa.list_(said),
            "source": pa.string(),
        }
    )
    count, missing = 0, set[str]()

    def write(path: Path) -> None:
        nonlocal count
        with parquet.ParquetWriter(path, schema) as writer:
            for rows in _groups(read_rows(subset)):
                records = [_record(row, root, missing) for row in rows]
                writer.write_table(pa.Table.from_pylist(records, schema))
                count += len(rows)

    write_atomic(out, write)
    return count, missing


def _groups(rows: Iterator[ExportRow]) -> Iterator[Sequence[ExportRow]]:
    while group := list(itertools.islice(rows, GROUP)):
        yield group


def _record(row: ExportRow, root: Path, missing: set[str]) -> dict[str, Any]:
    images = []
    for name in row.images:
        content = None
        try:
            with open_picture(root, name) as stream:
                content = stream.read()
        except BadImage:
            missing.add(name)
        images.append({"bytes": content, "path": name})
    said = [{"from": turn.role, "value": turn.text} for turn in row.turns]
    if row.system is not None:
        said.insert(0, {"from": "system", "value": row.system})
    source = row.record.get("source")
    return {
        "id": row.id,
        "images": images,
        "conversations": said,
        "source": source if isinstance(source, str) else None,
    }
