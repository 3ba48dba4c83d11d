"""Pictures inside Parquet shards, read where they lie: ``<shard>.parquet#<row>/<column>/<index>``.

``row`` counts from 0 in the shard, ``index`` within the row's list of pictures (0 in a column of
single ones). A column holds the encoded picture as bytes, as base64, or in a struct with a field
``bytes`` (``datasets.Image``), alone or in a list.

A column chunk can only be decoded from its beginning. Each process therefore keeps the row groups
that it read last, by the bytes they take; of a row group that is larger than that, it keeps the
place it has reached. Passes in the order of the rows read every group once, wherever they come
from; random access costs a row group each time the picture asked for is in none of those kept.
Nothing is shared between processes: a forked one begins without open files.
"""

from __future__ import annotations

import os
import re
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from coincide.data.encoded import as_bytes
from coincide.data.fault import BadRow

KEEP = 256 << 20
"""Bytes of decoded row groups that a process keeps."""
OPEN = 32
"""Shards that a process keeps open."""
STEP = 16
"""Rows read at a time of a row group that is larger than ``KEEP``."""
_CELL = re.compile(r"(.+\.parquet)#(\d+)/(.+)/(\d+)", re.IGNORECASE | re.DOTALL)
ShardStamp = tuple[str, int, int]


class PictureCell(NamedTuple):
    """Where a picture lies: the shard below the image root, row, column, place in its list."""

    shard: str
    row: int
    column: str
    nth: int

    def __str__(self) -> str:
        return f"{self.shard}#{self.row}/{self.column}/{self.nth}"


class NoPicture(Exception):
    """There is no picture in that place."""


class DamagedShard(Exception):
    """The shard cannot be read as Parquet."""


def cell_of(name: str) -> PictureCell | None:
    """The cell that a picture's ``name`` stands for; None for the path of a file."""
    found = _CELL.fullmatch(name) if "#" in name else None
    return PictureCell(found[1], int(found[2]), found[3], int(found[4])) if found else None


def file_of(name: str) -> str:
    """The path of the file that holds the picture ``name``: its shard, or ``name`` itself."""
    cell = cell_of(name)
    return cell.shard if cell else name


def in_order(name: str) -> tuple[str, int, str, int]:
    """Sorting key of a picture's name by which those of one row group follow each other."""
    return cell_of(name) or PictureCell(name, 0, "", 0)


def read_cell(path: Path, cell: PictureCell) -> bytes:
    """The encoded picture in ``cell`` of the shard at ``path``.

    Raises :class:`NoPicture` where row, column or index do not exist or are null, and
    :class:`DamagedShard` for a file that is no whole Parquet.
    """
    with _state.lock:
        try:
            found = _value(_state.shard(path), cell)
        except _errors() as error:
            raise DamagedShard(str(error).split("\n", 1)[0]) from error
    if isinstance(found, dict):
        found = found.get("bytes")
    if found is None:
        raise NoPicture(f"{cell.column} is null there")
    try:
        return as_bytes(found)
    except BadRow as fault:
        raise NoPicture(fault.detail) from fault


def has_cell(path: Path, cell: PictureCell) -> bool:
    """Whether the shard at ``path`` has this row and column, by its footer.

    True for a shard that cannot be read: reading the picture tells what is wrong with it.
    """
    with _state.lock:
        try:
            shard = _state.shard(path)
        except _errors():
            return True
        return cell.row < shard.rows and cell.column in shard.file.schema_arrow.names


@dataclass
class _Shard:
    """An open shard: rows of its groups, and the places reached in large ones."""

    stamp: ShardStamp
    file: Any
    begins: list[int]
    """The first row of each row group."""
    rows: int
    reached: dict[tuple[int, str], tuple[int, Any, Iterator[Any]]] = field(default_factory=dict)


class _State:
    """What a process keeps: open shards, and row groups by the time of their last use."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.shards: OrderedDict[ShardStamp, _Shard] = OrderedDict()
        self.groups: OrderedDict[tuple[ShardStamp, int, str], Any] = OrderedDict()
        self.size = 0

    def shard(self, path: Path) -> _Shard:
        """The shard at ``path``, opened anew if the file is another than before."""
        status = path.stat()
        stamp = (str(path), status.st_size, status.st_mtime_ns)
        if stamp not in self.shards:
            self.shards[stamp] = _open(path, stamp)
            if len(self.shards) > OPEN:
                self.shards.popitem(last=False)[1].file.close()
        self.shards.move_to_end(stamp)
        return self.shards[stamp]

    def keep(self, key: tuple[ShardStamp, int, str], column: Any) -> None:
        self.groups[key] = column
        self.size += column.nbytes
        while self.size > KEEP and len(self.groups) > 1:
            self.size -= self.groups.popitem(last=False)[1].nbytes


_state = _State()


def _forget() -> None:
    global _state
    _state = _State()


os.register_at_fork(after_in_child=_forget)


def _errors() -> tuple[type[Exception], ...]:
    import pyarrow as pa

    return (pa.ArrowException, OSError)


def _open(path: Path, stamp: ShardStamp) -> _Shard:
    from pyarrow import parquet

    file = parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
    sizes = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
    return _Shard(stamp, file, [0, *accumulate(sizes)][:-1], sum(sizes))


def _value(shard: _Shard, cell: PictureCell) -> Any:
    """What stands in ``cell``, as Python has it."""
    if cell.row >= shard.rows:
        raise NoPicture(f"the shard has {shard.rows:,} rows")
    if cell.column not in shard.file.schema_arrow.names:
        raise NoPicture(f"it has the columns {', '.join(shard.file.schema_arrow.names)}")
    group = bisect_right(shard.begins, cell.row) - 1
    begin, column = _column(shard, group, cell.column, cell.row)
    return _item(column[cell.row - begin], cell.nth)


def _item(scalar: Any, index: int) -> Any:
    """The picture number ``index`` of a row's value; the only one has number 0."""
    items = getattr(scalar, "values", None)
    if items is None or not hasattr(scalar.type, "value_type") or not hasattr(scalar, "__len__"):
        if index:
            raise NoPicture("the row has one picture")
        return scalar.as_py()
    if index >= len(items):
        raise NoPicture(f"the row has {len(items)} pictures")
    return items[index].as_py()


def _column(shard: _Shard, group: int, name: str, row: int) -> tuple[int, Any]:
    """The part of a column that holds ``row``, and its first row."""
    key = (shard.stamp, group, name)
    if key in _state.groups:
        _state.groups.move_to_end(key)
        return shard.begins[group], _state.groups[key]
    if _size(shard, group, name) > KEEP:
        return _advanced(shard, group, name, row)
    table = shard.file.read_row_group(group, columns=[name], use_threads=False)
    _state.keep(key, table.column(name))
    return shard.begins[group], table.column(name)


def _size(shard: _Shard, group: int, name: str) -> int:
    """Bytes of a column in a row group, by the footer."""
    found = shard.file.metadata.row_group(group)
    leaves = (found.column(n) for n in range(found.num_columns))
    return sum(
        leaf.total_uncompressed_size
        for leaf in leaves
        if leaf.path_in_schema == name or leaf.path_in_schema.startswith(f"{name}.")
    )


def _advanced(shard: _Shard, group: int, name: str, row: int) -> tuple[int, Any]:
    """A few rows of a large row group, read on from the place reached before."""
    key = (group, name)
    begin, column, batches = shard.reached.get(key, (row + 1, (), iter(())))
    if row < begin:
        begin, column = shard.begins[group], ()
        batches = shard.file.iter_batches(
            batch_size=STEP, row_groups=[group], columns=[name], use_threads=False
        )
    while row >= begin + len(column):
        begin += len(column)
        batch = next(batches, None)
        if batch is None:
            raise DamagedShard(f"row group {group} ends at row {begin:,}")
        column = batch.column(name)
    shard.reached[key] = (begin, column, batches)
    return begin, column
