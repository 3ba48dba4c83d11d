"""Which rows of a pass are computed together: its units, each claimed by one worker.

A unit is a shard, unless rows that show one picture lie far apart, as in a shuffled dataset: a
picture costs most of what its rows cost, and would be computed once for each shard that shows it.
Then units are made by picture; their values lie in files of their own beside the shards, and are
put in the rows' order once all of them are there. The bytes of the shards are the same.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from coincide.data.columns import shown
from coincide.features.engine.shards import ShardedArray, has_shard, read_valid, write_shard
from coincide.schema import Example
from coincide.system.files import write_array

BY_PICTURE, ORDER = "by-picture", "order.npy"
BLOCK_BYTES = 256 * 2**20
"""Of values that are put in the rows' order at a time."""
WORTH = 0.05
"""Share of the rows that must show a picture of another shard for units to be made by picture."""


@dataclass(frozen=True)
class Units:
    """The units of a pass: its shards, or the rows in ``order``."""

    shards: tuple[range, ...]
    """The row indices of each shard of the dataset."""
    order: np.ndarray | None = None
    """int64 [n, 2]: rows that are computed by picture, and the unit of each, ascending."""

    @cached_property
    def rows(self) -> Sequence[Sequence[int]]:
        """The row indices of each unit."""
        if self.order is None:
            return self.shards
        starts = np.flatnonzero(np.diff(self.order[:, 1])) + 1
        parts: list[np.ndarray] = np.split(self.order[:, 0], starts)
        return parts  # type: ignore[return-value]

    @cached_property
    def name(self) -> str:
        """Of the folders for the units' values, where they are not the shards: another order has
        another name, so that processes which disagree do not take each other's files.
        """
        order = b"" if self.order is None else self.order.tobytes()
        return f"{BY_PICTURE}-{hashlib.sha256(order).hexdigest()[:8]}"

    def to_shards(self, units: Path, folder: Path) -> None:
        """Write the shards that ``folder`` lacks, from the values in the folder ``units``, which
        holds all of them.
        """
        assert self.order is not None
        at = np.full(self.shards[-1].stop, -1)
        at[self.order[:, 0]] = np.arange(len(self.order))
        values, valid = ShardedArray(units), read_valid(units)
        left = [i for i in range(len(self.shards)) if not has_shard(folder, i)]
        size = len(self.shards[0]) * max(1, math.prod(values.shape[1:])) * values.dtype.itemsize
        several = max(1, BLOCK_BYTES // size)
        for first in range(0, len(left), several):  # each opens every unit once
            block = left[first : first + several]
            places = [at[self.shards[i].start : self.shards[i].stop] for i in block]
            ends = np.cumsum([len(each) for each in places])[:-1]
            parts = np.split(values[np.concatenate(places)], ends)
            for number, part, where in zip(block, parts, places, strict=True):
                write_shard(folder, number, part, valid[where])


def lacking(folders: Sequence[Path], count: int) -> list[int]:
    """Which of the ``count`` units, or shards, are not in all of ``folders``.

    Empty where a folder is gone: what it was for is made.
    """
    try:
        names = [{path.name for path in folder.iterdir()} for folder in folders]
    except FileNotFoundError:
        return []
    return [
        i
        for i in range(count)
        if not all(has_shard(f, i, n) for f, n in zip(folders, names, strict=True))
    ]


def shards_of(rows: int, shard_rows: int) -> tuple[range, ...]:
    """The row indices of each shard."""
    return tuple(range(i, min(i + shard_rows, rows)) for i in range(0, rows, shard_rows))


def write_order(folder: Path, order: np.ndarray | None) -> None:
    """Write the ``order`` of :class:`Units` to ``folder``."""
    write_array(folder / ORDER, np.empty((0, 2), np.int64) if order is None else order)


def read_order(folder: Path) -> np.ndarray | None:
    """The order in ``folder``, int64 [n, 2] with no rows for None; None if there is none, or a file
    that a kill cut short.
    """
    with suppress(OSError, ValueError, EOFError):
        found: np.ndarray = np.load(folder / ORDER, allow_pickle=False)
        return found
    return None


def by_picture(
    examples: Sequence[Example], shards: Sequence[range], most: int
) -> np.ndarray | None:
    """The rows of ``shards`` in an order in which those that show the same picture follow each
    other, in units of at most ``most`` rows: int64 [n, 2], row and unit.

    None if fewer than ``WORTH`` of the rows show a picture of another shard.
    """
    rows = np.concatenate([np.asarray(shard) for shard in shards]) if shards else np.empty(0, int)
    places, pictures = _shown(examples, rows)
    if not len(places):
        return None
    group = _connected(len(rows), places, pictures)
    of_shard = np.repeat(np.arange(len(shards)), [len(shard) for shard in shards])
    apart = len(np.unique(np.stack([group, of_shard]), axis=1).T) - (int(group.max()) + 1)
    if apart < WORTH * len(rows):
        return None
    first = np.full(int(group.max()) + 1, len(rows))
    np.minimum.at(first, group, np.arange(len(rows)))
    places = np.lexsort((np.arange(len(rows)), first[group]))
    return np.stack([rows[places], _cut(group[places], most)], axis=1).astype(np.int64)


def _shown(examples: Sequence[Example], rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What ``rows`` [n] show: the place of the row among them, and the number of the picture."""
    found = shown(examples)
    counts = np.diff(found.starts)[rows]
    places = np.repeat(np.arange(len(rows)), counts)
    begins = np.repeat(found.starts[:-1][rows] - np.cumsum(counts) + counts, counts)
    return places, found.codes[begins + np.arange(len(places))]


def _connected(rows: int, places: np.ndarray, pictures: np.ndarray) -> np.ndarray:
    """int64 [rows]: the same number for rows that show a picture in common, at any remove; the row
    at ``places[i]`` shows ``pictures[i]``.
    """
    columns = rows + np.unique(pictures, return_inverse=True)[1]
    size = int(columns.max()) + 1
    pairs = coo_array((np.ones(len(places), bool), (places, columns)), shape=(size, size))
    _, labels = connected_components(pairs, directed=False)
    return np.unique(labels[:rows], return_inverse=True)[1].astype(np.int64)


def _cut(group: np.ndarray, most: int) -> np.ndarray:
    """int64 [n]: the unit of each row. Rows of one group follow each other in ``group`` [n], and
    are cut only where they are more than ``most``.
    """
    starts = np.flatnonzero(np.diff(group, prepend=group[0] - 1))
    lengths = np.diff(np.append(starts, len(group)))
    units, unit, held = np.empty(len(group), np.int64), 0, 0
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        if held and held + length > most:
            unit, held = unit + 1, 0
        whole = (held + np.arange(length)) // most
        units[start : start + length] = unit + whole
        unit += int(whole[-1])
        held = held + length - int(whole[-1]) * most
    return units
