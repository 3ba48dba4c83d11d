"""Typicality of a row in its cluster: how close it is to its nearest neighbours there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from coincide.ops.clusters import each_cluster
from coincide.ops.products import as_float64, products

BLOCK = 1024
"""Rows of a cluster that are compared at once with as many others."""


def nearest_cosines(x: Any, members: Sequence[np.ndarray], neighbors: int) -> list[np.ndarray]:
    """Per cluster, the cosines of each row to its nearest rows of the cluster, float64 [n, m].

    ``x`` [N, D] (any norm but 0); ``members`` int64 [n] of each cluster; m is the smaller of
    ``neighbors`` and n - 1. Largest first.
    """
    found = each_cluster(lambda _, rows: _nearest(rows, neighbors), x, members)
    return [found.get(i, np.empty((0, 0))) for i in range(len(members))]


def _nearest(rows: Any, neighbors: int) -> np.ndarray:
    n = len(rows)
    count = min(neighbors, n - 1)
    best = np.full((n, count), -np.inf)
    for start in range(0, n, BLOCK):
        here = unit(rows[start : start + BLOCK])
        for other in range(0, n, BLOCK):
            cosines = products(here, unit(rows[other : other + BLOCK]))
            if other == start:
                np.fill_diagonal(cosines, -np.inf)
            both = np.concatenate([best[start : start + BLOCK], cosines], axis=1)
            best[start : start + BLOCK] = -np.sort(-both, axis=1)[:, :count]
    return best


def unit(rows: np.ndarray) -> np.ndarray:
    """The rows as float64 of unit norm."""
    found = as_float64(np.asarray(rows))
    return found / np.linalg.norm(found, axis=1, keepdims=True)
