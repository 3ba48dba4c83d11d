"""Overlap between subsets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np

from coincide.ledger.evidence import ArtifactShelf
from coincide.report.records import FULL, Panel

BLOCK = 1 << 15
"""Most rows of the pool that are looked at together."""
EXACT = 1 << 24
"""Whole numbers up to which a float32 holds each."""


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
    """Overlap of the subsets of each two rows of a panel, over all pairs of their seeds."""

    rows: tuple[int, ...]
    """Indices of the panel's rows whose subsets are in the store; full data is left out."""
    share: Mapping[tuple[int, int], float]
    """(row, row) -> shared rows / rows of the smaller subset, both summed over pairs of seeds."""
    jaccard: Mapping[tuple[int, int], float]
    """(row, row) -> shared rows / rows in either subset, both summed over pairs of seeds. For a row
    with itself: between its seeds, if their subsets differ."""
    absent: tuple[str, ...]
    """Labels of rows whose subsets are not in the store."""


def overlaps(panel: Panel, shelf: ArtifactShelf) -> Overlaps:
    """The overlaps of all rows but full data."""
    places: list[int] = []
    counts: list[np.ndarray] = []
    sizes: list[np.ndarray] = []
    absent = []
    for i, row in enumerate(panel.rows):
        if row.method == FULL:
            continue
        folders = {shelf.subset(run): run for run in row.runs}
        found = [shelf.rows(run) for folder, run in folders.items() if folder]
        subsets = [rows for rows in found if rows is not None]
        if len(subsets) == len(folders):
            places.append(i)
            counts.append(how_often(subsets))
            sizes.append(np.array([len(rows) for rows in subsets], np.int64))
        else:
            absent.append(row.label)
    both = products(counts)
    share, jaccard = {}, {}
    for a, b in combinations_with_replacement(range(len(places)), 2):
        one = a == b  # then each subset with each later one
        if one and len(sizes[a]) < 2:
            continue
        pairs = np.triu_indices(len(sizes[a]), 1) if one else slice(None)
        shared = (int(both[a, a]) - int(sizes[a].sum())) // 2 if one else int(both[a, b])
        smaller = int(np.minimum.outer(sizes[a], sizes[b])[pairs].sum())
        either = int(np.add.outer(sizes[a], sizes[b])[pairs].sum()) - shared
        key = places[a], places[b]
        share[key], jaccard[key] = shared / max(1, smaller), shared / max(1, either)
    return Overlaps(tuple(places), share, jaccard, tuple(absent))


def how_often(subsets: Sequence[np.ndarray]) -> np.ndarray:
    """In how many of ``subsets`` (arrays of distinct row indices) each row is, uint8 or uint16 [n];
    n is the largest index + 1.
    """
    rows = max((int(one.max()) + 1 for one in subsets if len(one)), default=0)
    found = np.zeros(rows, np.uint8 if len(subsets) < 1 << 8 else np.uint16)
    for one in subsets:
        found[one] += 1
    return found


def products(counts: Sequence[np.ndarray]) -> np.ndarray:
    """Sum over rows of the products of each two of ``counts`` (:func:`how_often` of C groups of
    subsets), int64 [C, C]: rows shared by a subset of one and a subset of the other, over all
    pairs of them. A subset is read once, not once for each other one.
    """
    found = np.zeros((len(counts), len(counts)), np.int64)
    most = max((int(one.max(initial=0)) for one in counts), default=0)
    block = max(1, EXACT // max(1, most) ** 2)
    for start in range(0, max(map(len, counts), default=0), min(block, BLOCK)):
        dense = np.zeros((len(counts), min(block, BLOCK)), np.float32)
        for row, one in zip(dense, counts, strict=True):
            part = one[start : start + len(row)]
            row[: len(part)] = part
        found += (dense @ dense.T).astype(np.int64)
    return found
