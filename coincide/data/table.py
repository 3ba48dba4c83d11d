"""Rows as one Arrow table: written block by block, read through a memory map, an example at a time.

What a block holds: :mod:`coincide.data.blocks`. Code that looks at all rows uses columns
(:mod:`coincide.data.columns`) and not their examples, each of which has to be made.
"""

from __future__ import annotations

import mmap
import tempfile
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import index
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
from pyarrow import compute, ipc

from coincide.data.blocks import (
    SCHEMA,
    TEXT,
    BlockView,
    ParsedRow,
    as_text,
    offsets,
    write_blocks,
)
from coincide.schema import Example

IN_MEMORY = 32 * 2**20
"""Larger tables that no store keeps lie in a temporary file."""
RESIDENT = 32 * 2**20
"""Bytes of blocks that are read before the pages of the map are given back."""
PART = 8_192
"""Names that are made at a time."""


# --- writing ----------------------------------------------------------------------------------


def write_rows(path: Path, rows: Iterable[ParsedRow]) -> int:
    """Write ``rows``, in the order of their numbers 0, 1, ..., to ``path``; returns how many.

    Raises OSError for a disk without room, and ValueError for rows out of order.
    """
    with path.open("wb") as file:
        return write_blocks(file, rows)


def collect_rows(rows: Iterable[ParsedRow]) -> Rows:
    """The table of ``rows``, kept in memory, or in a temporary file that nobody else sees."""
    with tempfile.SpooledTemporaryFile(IN_MEMORY) as file:
        write_blocks(file, rows)
        if file.tell() <= IN_MEMORY:
            file.seek(0)
            return Rows(file.read())
        file.flush()
        return Rows(_mapped(file.fileno()))


# --- reading ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Labels:
    """A column of few distinct texts: ``names`` in the order in which they appear, and ``codes``
    int32 [N], the name of each row.
    """

    names: tuple[str, ...]
    codes: np.ndarray

    def counts(self, rows: np.ndarray | None = None) -> dict[str, int]:
        """Name -> number of rows, or of those of ``rows`` [n]; by name, without those of none."""
        codes = self.codes if rows is None else self.codes[rows]
        found = zip(self.names, np.bincount(codes, minlength=len(self.names)).tolist(), strict=True)
        return {name: count for name, count in sorted(found) if count}


@dataclass(frozen=True)
class Shown:
    """The pictures of all rows: the distinct ``names``, an Arrow array of bytes in the order in
    which they appear; ``codes`` int32, the pictures of row 0, of row 1, ...; those of row r are
    ``codes[starts[r] : starts[r + 1]]``.
    """

    names: pa.Array
    codes: np.ndarray
    starts: np.ndarray

    def name(self, code: int) -> str:
        """The name of a picture."""
        return as_text(self.names[code].as_py())

    def texts(self) -> Iterator[str]:
        """The names of all."""
        for begin in range(0, len(self.names), PART):
            yield from map(as_text, self.names.slice(begin, PART).to_pylist())

    @property
    def row_of(self) -> np.ndarray:
        """int32, as long as ``codes``: the row that each belongs to."""
        return np.repeat(np.arange(len(self.starts) - 1, dtype=np.int32), np.diff(self.starts))


def open_rows(path: Path) -> Rows:
    """The table in ``path``, mapped and not read. Raises OSError or ValueError if it is none."""
    with path.open("rb") as file:
        return Rows(_mapped(file.fileno()), path)


def _mapped(descriptor: int) -> mmap.mmap:
    return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)


class Rows(Sequence[Example]):
    """The examples of a table, made when they are asked for, and its columns.

    Of a mapped file, pages are given back to the system as reading goes on, so that resident memory
    does not grow with the table. Processes that are forked share the map; pickled, it is opened
    anew.
    """

    def __init__(self, data: bytes | mmap.mmap, path: Path | None = None) -> None:
        self._data = data
        self._path = path
        reader = ipc.open_file(pa.py_buffer(data))
        if not reader.schema.equals(SCHEMA):
            raise ValueError("not a table of rows")
        self._blocks = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        ends = np.cumsum([block.num_rows for block in self._blocks])
        self._starts = [0, *ends[:-1].tolist()]
        self._sizes = [block.nbytes for block in self._blocks]
        self._size = int(ends[-1])
        self._views: dict[int, BlockView] = {}
        self._read = 0
        self._last = -1
        self.give_back()

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, row: int) -> Example: ...
    @overload
    def __getitem__(self, row: slice) -> tuple[Example, ...]: ...
    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return tuple(self[i] for i in range(*row.indices(self._size)))
        number = index(row)
        number += self._size if number < 0 else 0
        if not 0 <= number < self._size:
            raise IndexError(f"row {row} of {self._size:,}")
        view, place = self._at(number)
        return view.example(place, number, self.sources.names[self.sources.codes[number]])

    def __iter__(self) -> Iterator[Example]:
        return (self[row] for row in range(self._size))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return (open_rows, (self._path,)) if self._path else (Rows, (bytes(self._data),))

    def text(self, row: int) -> str:
        """The row's own text."""
        view, place = self._at(row)
        return as_text(view.texts[place])

    def texts(self, rows: Iterable[int] | None = None) -> Iterator[str]:
        """The texts of ``rows``, or of all."""
        return map(self.text, range(self._size) if rows is None else rows)

    def text_bytes(self, rows: np.ndarray) -> int:
        """Bytes that the texts of ``rows`` [n], ascending, take together."""
        lengths = np.concatenate([np.diff(offsets(b.column("text"))) for b in self._each_block()])
        return int(lengths[rows].sum())

    # -- columns --

    def column(self, name: str) -> np.ndarray:
        """[N]: ``turns`` (int32), ``answered`` (bool) or ``left_out`` (int32)."""
        parts = [b.column(name).to_numpy(zero_copy_only=False) for b in self._each_block()]
        return np.concatenate(parts)

    def arrow(self, name: str) -> pa.ChunkedArray:
        """A column as it lies in the map; :meth:`give_back` after it was read."""
        return pa.chunked_array([b.column(name) for b in self._blocks], SCHEMA.field(name).type)

    @cached_property
    def sources(self) -> Labels:
        """The source of each row."""
        names, codes = self._distinct(self.arrow("source"))
        return Labels(tuple(map(as_text, names.to_pylist())), codes)

    def ids(self, rows: np.ndarray | None = None) -> Iterator[str]:
        """The id of each row, or of ``rows`` [n]."""
        if rows is not None:
            for view, place in map(self._at, rows.tolist()):
                yield as_text(view.ids[place])
            return
        for block in self._each_block():
            yield from map(as_text, block.column("id").to_pylist())

    @cached_property
    def pictured(self) -> np.ndarray:
        """bool [N]: rows with a picture."""
        return np.diff(self.shown_starts()) > 0

    def shown(self) -> Shown:
        """The pictures of all rows."""
        names, codes = self._distinct(
            pa.chunked_array([b.column("images").flatten() for b in self._blocks], TEXT)
        )
        return Shown(names, codes, self.shown_starts())

    def shown_starts(self) -> np.ndarray:
        """int64 [N + 1]: ``starts`` of :class:`Shown`."""
        counts = [np.diff(offsets(b.column("images"))) for b in self._each_block()]
        return np.concatenate([[0], np.cumsum(np.concatenate(counts))])

    def unlearnt(self) -> int:
        """How many answers are not to be learnt."""
        return sum(int(offsets(b.column("unlearnt"))[-1]) for b in self._each_block())

    def faults(self) -> Iterator[tuple[int, str, str]]:
        """``(row, kind, detail)`` of rows with a fault."""
        for start, block in zip(self._starts, self._each_block(), strict=True):
            if block.num_rows == block.column("fault").null_count:
                continue
            there = np.flatnonzero(block.column("fault").is_valid().to_numpy(zero_copy_only=False))
            kinds = block.column("fault").take(pa.array(there)).to_pylist()
            details = block.column("detail").take(pa.array(there)).to_pylist()
            for place, kind, detail in zip(there.tolist(), kinds, details, strict=True):
                yield start + place, as_text(kind), as_text(detail)

    def repeated_ids(self) -> tuple[list[str], int]:
        """The ids that several rows have, in the order in which they appear, and the number of
        rows without one.
        """
        found = compute.value_counts(self.arrow("id"))
        names, counts = found.field("values"), found.field("counts").to_numpy()
        empty = compute.equal(names, pa.scalar(b"", TEXT)).to_numpy(zero_copy_only=False)
        twice = names.filter(pa.array((counts > 1) & ~empty)).to_pylist()
        lacking = int(counts[empty].sum())
        del found, names
        self.give_back()
        pa.default_memory_pool().release_unused()
        return [as_text(name) for name in twice], lacking

    def _distinct(self, values: pa.ChunkedArray) -> tuple[pa.Array, np.ndarray]:
        """The distinct ``values`` in the order in which they appear, and their numbers."""
        found = values.dictionary_encode()
        self.give_back()
        pa.default_memory_pool().release_unused()
        if not found.num_chunks:
            return pa.array([], TEXT), np.empty(0, np.int32)
        codes = np.concatenate([chunk.indices.to_numpy() for chunk in found.chunks])
        return found.chunk(found.num_chunks - 1).dictionary, codes

    # -- pages --

    def _at(self, row: int) -> tuple[BlockView, int]:
        number = bisect_right(self._starts, row) - 1
        self._touch(number)
        view = self._views.get(number)
        if view is None:
            view = self._views[number] = BlockView(self._blocks[number])
        return view, row - self._starts[number]

    def _each_block(self) -> Iterator[pa.RecordBatch]:
        for number, block in enumerate(self._blocks):
            self._touch(number)
            yield block

    def _touch(self, number: int) -> None:
        """Note that block ``number`` is read, and give pages back now and then."""
        if number == self._last:
            return
        self._last = number
        self._read += self._sizes[number]
        if self._read >= RESIDENT:
            self.give_back()

    def give_back(self) -> None:
        """Give the pages of the map back: they stay in the system's cache of files, and are mapped
        again when they are read.
        """
        self._read = 0
        if isinstance(self._data, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            self._data.madvise(mmap.MADV_DONTNEED)
