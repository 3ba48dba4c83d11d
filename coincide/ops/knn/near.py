"""What is known of the nearest neighbours of a tile of rows while pairs are still looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import RLock

import numpy as np

Exact = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Keys int64 of pairs of places: they sort by distance (float32), then by row."""
NONE = np.iinfo(np.int64).max
_HELD = 2**20
"""Pairs that wait for their exact distance."""
_ROUNDING = 1 + 2.0**-20
"""Distances that differ by less may be one number in float32, and then the lower row is first."""


@dataclass(frozen=True)
class RowPairs:
    """Pairs of a row of the tile and another row, and between which numbers their distance is."""

    row: np.ndarray
    """int64 [p], place in the tile."""
    other: np.ndarray
    """int64 [p], place among all rows."""
    low: np.ndarray
    """float32 [p], squared distance."""
    high: np.ndarray | None
    """float32 [p], or None if there is no upper bound; given once for each pair."""

    def some(self, which: np.ndarray) -> RowPairs:
        """Those in the mask ``which``, without their upper bounds."""
        return RowPairs(self.row[which], self.other[which], self.low[which], None)


class Near:
    """The nearest of ``rows`` rows, which begin at place ``first``: bounds, then exact keys.

    Bounds are on squared distances of the screen, ``worth`` times those of the keys.
    """

    def __init__(self, first: int, rows: int, k: int, worth: float) -> None:
        self.first, self.k, self.worth = first, k, worth
        self.lock = RLock()
        self.high = np.full((rows, k), np.inf, np.float32)
        """Upper bounds on the squared distances of the nearest found so far."""
        self.keys = np.full((rows, k), NONE, np.int64)
        self.reach = np.full(rows, np.inf, np.float32)
        """Squared distance beyond which no row is a neighbour."""
        self.waiting: list[RowPairs] = []
        self.held = 0

    def tightened(self, pairs: RowPairs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``(rows, their high, their reach)`` if ``pairs`` are taken in; nothing changes yet."""
        if pairs.high is None or not len(pairs.row):
            none = np.empty(0, np.int64)
            return none, self.high[none], self.reach[none]
        order = np.argsort(pairs.row, kind="stable")
        rows, starts, counts = np.unique(pairs.row[order], return_index=True, return_counts=True)
        beside = np.full((len(rows), self.k + int(counts.max())), np.inf, np.float32)
        beside[:, : self.k] = self.high[rows]
        group = np.repeat(np.arange(len(rows)), counts)
        beside[group, self.k + np.arange(len(order)) - starts[group]] = pairs.high[order]
        beside.partition(self.k - 1, axis=1)
        high = beside[:, : self.k]
        return rows, high, np.minimum(self.reach[rows], high[:, -1] * np.float32(_ROUNDING))

    def take(self, pairs: RowPairs, tight: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
        """Keep ``pairs`` (:meth:`tightened` gave ``tight``) for their exact distance."""
        rows, high, reach = tight
        self.high[rows], self.reach[rows] = high, reach
        if len(pairs.row):
            self.waiting.append(pairs)
            self.held += len(pairs.row)

    def settle(self, exact: Exact, *, now: bool = False) -> None:
        """Measure the pairs that wait, once they are many, and keep the nearest ``k``."""
        if not self.waiting or (self.held < _HELD and not now):
            return
        self._drop()
        if self.held < _HELD // 2 and not now:
            return
        pairs, self.waiting, self.held = self.waiting[0], [], 0
        keys = exact(self.first + pairs.row, pairs.other)
        for start in range(0, len(self.keys), 64):  # a matrix of few rows at a time
            stop = start + 64
            some = slice(*np.searchsorted(pairs.row, [start, stop]))
            self._merge(pairs.row[some], keys[some])

    def _drop(self) -> None:
        """Pairs in the order of their rows, without those that are out of reach by now."""
        names = ("row", "other", "low")
        row, other, low = (np.concatenate([getattr(p, n) for p in self.waiting]) for n in names)
        order = np.argsort(row, kind="stable")
        order = order[low[order] <= self.reach[row[order]]]
        self.waiting = [RowPairs(row[order], other[order], low[order], None)]
        self.held = len(order)

    def _merge(self, row: np.ndarray, keys: np.ndarray) -> None:
        """Exact keys of pairs, ascending rows, beside those known."""
        if not len(row):
            return
        rows, starts, counts = np.unique(row, return_index=True, return_counts=True)
        beside = np.full((len(rows), self.k + int(counts.max())), NONE, np.int64)
        beside[:, : self.k] = self.keys[rows]
        group = np.repeat(np.arange(len(rows)), counts)
        beside[group, self.k + np.arange(len(row)) - starts[group]] = keys
        beside.sort(axis=1)
        self.keys[rows] = beside[:, : self.k]
        full = rows[beside[:, self.k - 1] != NONE]
        farthest = (self.keys[full, -1] >> 32).astype(np.int32).view(np.float32)
        reach = farthest * np.float32(self.worth * _ROUNDING)
        self.reach[full] = np.minimum(self.reach[full], reach)
