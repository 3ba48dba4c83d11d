"""Overlap between subsets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from coincide.ledger.evidence import ArtifactShelf
from coincide.report.records import FULL, Panel

BLOCK = 1 << 15
"""Rows that are looked at together; a float32 counts as many exactly."""


@dataclass(frozen=True)
class Overlap:
    """Sizes of two sets of rows of one dataset, and of their intersection."""

    shared: int
    first: int
    second: int

    @property
    def jaccard(self) -> float:
        """Shared rows / rows in either set."""
        return self.shared / max(1, self.first + self.second - self.shared)

    @property
    def share(self) -> float:
        """Shared rows / rows of the smaller set."""
        return self.shared / max(1, min(self.first, self.second))


def overlap(first: np.ndarray, second: np.ndarray) -> Overlap:
    """The overlap of two arrays of distinct row indices."""
    shared = len(np.intersect1d(first, second, assume_unique=True))
    return Overlap(shared, len(first), len(second))


def expected_share(first: int, second: int, rows: int) -> float:
    """Expected ``share`` for two random subsets of ``rows`` rows."""
    return max(first, second) / max(1, rows)


@dataclass(frozen=True)
class Overlaps:
    """Mean overlap of the subsets of each pair of rows of a panel, over their seeds."""

    rows: tuple[int, ...]
    """Indices of the panel's rows whose subsets are in the store; full data is left out."""
    share: Mapping[tuple[int, int], float]
    """(row, row) -> mean ``Overlap.share``."""
    jaccard: Mapping[tuple[int, int], float]
    """(row, row) -> mean Jaccard index. For a row with itself: between its seeds, if their subsets
    differ."""
    absent: tuple[str, ...]
    """Labels of rows whose subsets are not in the store."""


def overlaps(panel: Panel, shelf: ArtifactShelf) -> Overlaps:
    """The overlaps of all rows but full data."""
    subsets: list[np.ndarray] = []
    places: dict[int, range] = {}
    absent = []
    for i, row in enumerate(panel.rows):
        if row.method == FULL:
            continue
        folders = {shelf.subset(run): run for run in row.runs}
        found = [shelf.rows(run) for folder, run in folders.items() if folder]
        if len(found) == len(folders) and all(rows is not None for rows in found):
            places[i] = range(len(subsets), len(subsets) + len(found))
            subsets += [_compact(rows) for rows in found if rows is not None]
        else:
            absent.append(row.label)
    sizes = [len(rows) for rows in subsets]
    shared = shared_rows(subsets)
    share, jaccard = {}, {}
    for i, j in [*combinations(places, 2), *((i, i) for i in places)]:
        pairs = combinations(places[i], 2) if i == j else product(places[i], places[j])
        each = [Overlap(int(shared[a, b]), sizes[a], sizes[b]) for a, b in pairs]
        if each:
            share[i, j] = _mean([one.share for one in each])
            jaccard[i, j] = _mean([one.jaccard for one in each])
    return Overlaps(tuple(places), share, jaccard, tuple(absent))


def shared_rows(subsets: Sequence[np.ndarray]) -> np.ndarray:
    """Rows that each two of S subsets (distinct row indices, ascending) have in common, int64
    [S, S].

    A product of 0 and 1 for each block of rows: hundreds of subsets of a large pool are read once,
    not once for each other one.
    """
    found = np.zeros((len(subsets), len(subsets)), np.int64)
    for block in sorted({block for rows in subsets for block in _blocks(rows)}):
        has = np.zeros((len(subsets), BLOCK), np.float32)
        for i, rows in enumerate(subsets):
            ends = np.array((block * BLOCK, (block + 1) * BLOCK), rows.dtype)
            low, high = np.searchsorted(rows, ends)
            has[i, rows[low:high] - ends[0]] = 1
        found += (has @ has.T).astype(np.int64)
    return found


def _blocks(rows: np.ndarray) -> list[int]:
    """The blocks that ascending ``rows`` lie in."""
    of = rows // BLOCK
    return of[np.flatnonzero(np.diff(of, prepend=of[:1] - 1))].tolist()


def _compact(rows: np.ndarray) -> np.ndarray:
    """``rows`` ascending, in half of the memory if they fit."""
    rows = rows if (rows[:-1] < rows[1:]).all() else np.sort(rows)
    return rows.astype(np.uint32) if len(rows) and rows[0] >= 0 and rows[-1] < 2**31 else rows


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
