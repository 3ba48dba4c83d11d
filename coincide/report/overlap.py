"""How much of one subset is in another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from coincide.report.evidence import ArtifactShelf
from coincide.report.records import FULL, Panel


@dataclass(frozen=True)
class Overlap:
    """Two sets of rows of one dataset."""

    shared: int
    first: int
    second: int

    @property
    def jaccard(self) -> float:
        """Shared rows over rows in either."""
        return self.shared / max(1, self.first + self.second - self.shared)

    @property
    def share(self) -> float:
        """Shared rows over the rows of the smaller."""
        return self.shared / max(1, min(self.first, self.second))


def overlap(first: np.ndarray, second: np.ndarray) -> Overlap:
    """Of two arrays of distinct row indices."""
    shared = len(np.intersect1d(first, second, assume_unique=True))
    return Overlap(shared, len(first), len(second))


def expected_share(first: int, second: int, rows: int) -> float:
    """``share`` of two subsets drawn at random from ``rows``."""
    return max(first, second) / max(1, rows)


@dataclass(frozen=True)
class Overlaps:
    """Mean overlap of the subsets of each pair of rows, over their seeds."""

    rows: tuple[int, ...]
    """Indices of the panel's rows whose subsets the store has; the full set is left out."""
    share: Mapping[tuple[int, int], float]
    jaccard: Mapping[tuple[int, int], float]
    """A row with itself: between its own seeds, where they differ."""
    absent: tuple[str, ...]
    """Labels of rows whose subsets are not in the store."""


def overlaps(panel: Panel, shelf: ArtifactShelf) -> Overlaps:
    """Of all rows but the full ones."""
    subsets: dict[int, list[np.ndarray]] = {}
    absent = []
    for i, row in enumerate(panel.rows):
        if row.method == FULL:
            continue
        folders = {shelf.subset(run): run for run in row.runs}
        found = [shelf.rows(run) for folder, run in folders.items() if folder]
        if len(found) == len(folders) and all(rows is not None for rows in found):
            subsets[i] = [rows for rows in found if rows is not None]
        else:
            absent.append(row.label)
    share, jaccard = {}, {}
    for i, j in [*combinations(subsets, 2), *((i, i) for i in subsets)]:
        pairs = list(combinations(subsets[i], 2)) if i == j else product(subsets[i], subsets[j])
        found_pairs = [overlap(a, b) for a, b in pairs]
        if found_pairs:
            share[i, j] = _mean([one.share for one in found_pairs])
            jaccard[i, j] = _mean([one.jaccard for one in found_pairs])
    return Overlaps(tuple(subsets), share, jaccard, tuple(absent))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
