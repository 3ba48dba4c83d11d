"""Figures that show whether a clustering is broken."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from coincide.ops.arrays import row_digests

COINCIDING = 1 - 1e-6
"""Centroids with a larger cosine than this are the same point in float32."""


def clustering_health(
    x: np.ndarray, centroids: np.ndarray, assignment: np.ndarray
) -> dict[str, Any]:
    """Figures that show whether a clustering is broken; rows with assignment -1 do not count.

    ``x`` [N, D], ``centroids`` [K, D], ``assignment`` int [N]. Returns ``clusters``,
    ``empty_clusters``, ``coinciding_centroids`` (that repeat an earlier one), ``size_min``,
    ``size_median``, ``size_max``, ``largest_share`` (rows of the largest cluster / rows) and
    ``duplicate_share`` (share of the rows that equal an earlier one byte for byte).
    """
    used = np.flatnonzero(assignment >= 0)
    sizes = np.bincount(assignment[used], minlength=len(centroids))
    distinct = len(np.unique(row_digests(x)[used]))
    return {
        "clusters": len(centroids),
        "empty_clusters": int((sizes == 0).sum()),
        "coinciding_centroids": _coinciding(centroids),
        "largest_share": float(sizes.max() / max(len(used), 1)),
        "size_min": int(sizes.min()),
        "size_median": float(np.median(sizes)),
        "size_max": int(sizes.max()),
        "duplicate_share": 1 - distinct / max(len(used), 1),
    }


def _coinciding(centroids: np.ndarray) -> int:
    unit = normalize(torch.from_numpy(np.array(centroids, np.float32)))
    repeats = 0
    for start in range(0, len(unit), 1024):
        close = (unit[start : start + 1024] @ unit.T) > COINCIDING
        repeats += int(close.tril(start - 1).any(1).sum())
    return repeats
