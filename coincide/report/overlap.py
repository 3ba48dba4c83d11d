"""Overlap between subsets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from coincide.ledger.evidence import ArtifactShelf
from coincide.report.records import FULL, Panel


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
