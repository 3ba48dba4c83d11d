"""A block of a table of rows: an Arrow record batch, written from examples and read by place.

A row keeps its own text, the LLaVA json from which subsets are written byte for byte, and from
which its turns are parsed when it is asked for. Everything that is asked of all rows at once is a
column. Texts and names are bytes (UTF-8, lone surrogates passed), so that what Arrow's strings do
not hold comes out as it went in.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import ipc

from coincide.data.fault import BadRow
from coincide.data.parse import ROLES
from coincide.schema import Example, Turn

BLOCK_ROWS = 8_192
BLOCK_BYTES = 4 * 2**20
"""A block of rows ends with the row that reaches one of these."""
TEXT = pa.large_binary()
SCHEMA = pa.schema(
    {
        "id": TEXT,
        "source": TEXT,
        "images": pa.large_list(TEXT),
        "turns": pa.int32(),
        "unlearnt": pa.large_list(pa.int32()),
        "answered": pa.bool_(),
        "left_out": pa.int32(),
        "fault": TEXT,
        "detail": TEXT,
        "text": TEXT,
    }
)
"""``turns``: how many the example has; ``unlearnt``: which of them are answers not to be learnt;
``answered``: whether an answer has text to learn; ``left_out``: leading turns that are left out;
``fault`` and ``detail``: what is wrong with the row, null if nothing."""


class ParsedRow(NamedTuple):
    """A row on its way into a table."""

    example: Example
    """Without turns and images if there is a fault. Its turns are the last ones of ``text``."""
    text: str
    """The row as LLaVA json; anything for a row with a fault."""
    left_out: int = 0
    fault: BadRow | None = None


# --- writing ---------------------------------------------------------------------------------


def write_blocks(file: Any, rows: Iterable[ParsedRow]) -> int:
    """Write ``rows``, in the order of their numbers 0, 1, ..., to an open ``file``; returns how
    many. Raises ValueError for rows out of order.
    """
    block, size, count = _new_block(), 0, 0
    with ipc.new_file(pa.PythonFile(file, "w"), SCHEMA) as writer:
        for row in rows:
            if row.example.row != count:
                raise ValueError(f"row {row.example.row} came as number {count}")
            size += _add(block, row)
            count += 1
            if size >= BLOCK_BYTES or len(block["id"]) >= BLOCK_ROWS:
                writer.write_batch(_batch(block))
                block, size = _new_block(), 0
        if block["id"] or not count:
            writer.write_batch(_batch(block))
    return count


def _new_block() -> dict[str, list[Any]]:
    return {name: [] for name in SCHEMA.names}


def _batch(block: Mapping[str, list[Any]]) -> pa.RecordBatch:
    arrays = [pa.array(block[field.name], field.type) for field in SCHEMA]
    return pa.record_batch(arrays, schema=SCHEMA)


def _add(block: Mapping[str, list[Any]], row: ParsedRow) -> int:
    """Append ``row`` to the columns of ``block``; returns the bytes of its texts."""
    example, fault = row.example, row.fault
    text = as_bytes(row.text)
    block["id"].append(as_bytes(example.id))
    block["source"].append(as_bytes(example.source))
    block["images"].append([as_bytes(name) for name in example.images])
    block["turns"].append(len(example.turns))
    block["unlearnt"].append([n for n, turn in enumerate(example.turns) if not turn.learn])
    block["answered"].append(has_answer(example))
    block["left_out"].append(row.left_out)
    block["fault"].append(as_bytes(fault.kind) if fault else None)
    block["detail"].append(as_bytes(fault.detail) if fault else None)
    block["text"].append(text)
    return len(text) + sum(map(len, example.images))


def has_answer(example: Example) -> bool:
    """Whether any answer of the conversation has text to learn."""
    return any(t.role == "gpt" and t.learn and t.text.strip() for t in example.turns)


def as_bytes(text: str) -> bytes:
    """``text`` as UTF-8, lone surrogates included."""
    return text.encode("utf-8", "surrogatepass")


def as_text(data: bytes) -> str:
    """What :func:`as_bytes` was given."""
    return data.decode("utf-8", "surrogatepass")


# --- reading ----------------------------------------------------------------------------------


class BlockView:
    """The columns of one block, by place."""

    def __init__(self, block: pa.RecordBatch) -> None:
        self.texts = _Texts(block.column("text"))
        self.ids = _Texts(block.column("id"))
        images = block.column("images")
        self.pictures, self.shown = _Texts(images.flatten()), _places(images)
        unlearnt = block.column("unlearnt")
        self.marks, self.marked = unlearnt.flatten(), _places(unlearnt)
        self.turns = memoryview(block.column("turns").to_numpy())

    def example(self, place: int, row: int, source: str) -> Example:
        """The example at ``place`` of the block, which is row ``row`` and of ``source``."""
        count = self.turns[place]
        shown = range(self.shown[place], self.shown[place + 1])
        return Example(
            row,
            as_text(self.ids[place]),
            tuple([as_text(self.pictures[i]) for i in shown]),
            self._turns(place, count) if count else (),
            source,
        )

    def _turns(self, place: int, count: int) -> tuple[Turn, ...]:
        said = json.loads(as_text(self.texts[place]))["conversations"]
        first, last = self.marked[place], self.marked[place + 1]
        kept = said[len(said) - count :]
        if first == last:
            return tuple([Turn(ROLES[turn["from"]], turn["value"]) for turn in kept])
        left_out = self.marks[first:last].to_pylist()
        return tuple(
            Turn(ROLES[turn["from"]], turn["value"], n not in left_out)
            for n, turn in enumerate(kept)
        )


class _Texts:
    """An Arrow array of texts as bytes by place."""

    def __init__(self, array: pa.Array) -> None:
        self.places = _places(array)
        self.data = memoryview(array.buffers()[2] or b"")

    def __getitem__(self, place: int) -> bytes:
        return bytes(self.data[self.places[place] : self.places[place + 1]])


def _places(array: pa.Array) -> memoryview:
    """int64 [n + 1]: where each value of a column begins and ends."""
    return memoryview(array.buffers()[1] or bytes(8)).cast("b").cast("q")


def offsets(array: pa.Array) -> np.ndarray:
    """int64 [n + 1]: where each value of a column begins and ends."""
    return np.frombuffer(_places(array), np.int64)[: len(array) + 1]
