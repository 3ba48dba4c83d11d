"""Spherical k-means: rows and centroids on the unit sphere, nearest by cosine.

COINCIDE and SemDeDup cluster with FAISS, whose versions give different subsets and which users
have seen collapse to one centroid. Here the answer depends on the rows, ``k``, ``iterations`` and
the seed alone. Products are taken over tiles of one shape (``coincide.ops.arrays``), and centroid
sums are integers (fixed point, 2⁻⁴⁰), which add up to the same bits in any order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from coincide.ops.arrays import require_finite_rows, row_digests, tiles

_UNIT = 2.0**40
"""Fixed-point scale of centroid sums: int64 holds 8 million unit rows."""
_REPAIRS = 20
COINCIDING = 1 - 1e-6
"""Centroids with a cosine above this are one point to float32."""


def spherical_kmeans(
    x: np.ndarray,
    k: int,
    iterations: int,
    seed: int,
    *,
    chunk_rows: int | None = None,
    device: str = "cpu",
) -> tuple[np.ndarray, np.ndarray]:
    """Cluster the rows of ``x`` [N, D] by direction.

    ``x`` may be an fp16 memmap; ``chunk_rows`` only says how many rows are read at once. Starts
    from ``k`` distinct rows drawn with ``seed``; stops early once nothing moves. A cluster that
    runs empty restarts at the row farthest from its centroid.

    Returns:
        ``centroids`` float32 [K, D] of unit norm and ``assignment`` int32 [N], the nearest
        centroid of every row, ties to the lowest; no cluster is empty.

    Raises:
        ValueError: NaN, Inf or zero rows, or fewer (distinct) rows than clusters.
    """
    require_finite_rows(x, zero_allowed=False, chunk_rows=chunk_rows)
    digests = row_digests(x, chunk_rows)
    _require_distinct(digests, k)
    centroids = _unit_rows(x, _initial_rows(digests, k, seed), device)
    previous = np.empty(0, np.int64)
    for _ in range(iterations):
        assignment, cosine, sums = _assign(x, centroids, chunk_rows, with_sums=True)
        _refill_empty(x, assignment, cosine, sums, digests)
        if np.array_equal(assignment, previous):
            break
        centroids, previous = _means(sums, centroids), assignment
    centroids, assignment = _settle(x, centroids, digests, chunk_rows)
    return centroids.cpu().numpy(), assignment.astype(np.int32)


def clustering_health(
    x: np.ndarray, centroids: np.ndarray, assignment: np.ndarray
) -> dict[str, Any]:
    """Figures that tell a broken clustering; rows with assignment -1 are left out.

    ``clusters``, ``empty_clusters``, ``coinciding_centroids`` (that repeat an earlier one),
    ``size_min``, ``size_median``, ``size_max``, ``largest_share`` (of the rows) and
    ``duplicate_share`` (of the rows, byte for byte equal to an earlier one).
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


def _assign(
    x: np.ndarray, centroids: torch.Tensor, chunk_rows: int | None, *, with_sums: bool
) -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
    """Nearest centroid int64 [N], its cosine float32 [N], fixed-point row sums int64 [K, D]."""
    assignment, cosine = np.empty(len(x), np.int64), np.empty(len(x), np.float32)
    sums = torch.zeros(centroids.shape, dtype=torch.int64, device=centroids.device)
    for start, tile in tiles(x, chunk_rows, str(centroids.device)):
        unit, stop = normalize(tile), min(start + len(tile), len(x))
        best, nearest = (unit @ centroids.T).max(1)
        if with_sums:  # the zero rows of the last tile add nothing
            sums.index_add_(0, nearest, (unit * _UNIT).long())
        assignment[start:stop] = nearest[: stop - start].cpu().numpy()
        cosine[start:stop] = best[: stop - start].cpu().numpy()
    return assignment, cosine, sums


def _refill_empty(
    x: np.ndarray,
    assignment: np.ndarray,
    cosine: np.ndarray,
    sums: torch.Tensor,
    digests: np.ndarray,
) -> None:
    """Move one row into every empty cluster, in ``assignment`` and ``sums``, exactly."""
    empty = np.flatnonzero(np.bincount(assignment, minlength=len(sums)) == 0)
    if not len(empty):
        return
    rows = _strays(assignment, cosine, digests, len(empty))
    units = (_unit_rows(x, rows, str(sums.device)) * _UNIT).long()
    sums.index_add_(0, torch.from_numpy(assignment[rows]).to(sums.device), -units)
    sums[torch.from_numpy(empty[: len(rows)]).to(sums.device)] = units
    assignment[rows] = empty[: len(rows)]


def _strays(
    assignment: np.ndarray, cosine: np.ndarray, digests: np.ndarray, count: int
) -> np.ndarray:
    """The ``count`` distinct rows farthest from their centroids that leave no cluster empty."""
    left = np.bincount(assignment)
    rows: list[int] = []
    taken: set[int] = set()
    for row in np.argsort(cosine, kind="stable"):
        if len(rows) == count:
            break
        if left[assignment[row]] > 1 and digests[row] not in taken:
            rows.append(int(row))
            taken.add(digests[row])
            left[assignment[row]] -= 1
    return np.array(rows, np.int64)


def _means(sums: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
    """Unit means; where the members cancel out, the previous centroid stays."""
    means = normalize(sums.double())
    return torch.where((sums != 0).any(1, keepdim=True), means, previous.double()).float()


def _settle(
    x: np.ndarray, centroids: torch.Tensor, digests: np.ndarray, chunk_rows: int | None
) -> tuple[torch.Tensor, np.ndarray]:
    """Final assignment; empty clusters restart at stray rows until none is empty.

    Every restart raises the summed cosine, so this ends unless float32 cannot tell rows apart.
    """
    for _ in range(_REPAIRS):
        assignment, cosine, _ = _assign(x, centroids, chunk_rows, with_sums=False)
        empty = np.flatnonzero(np.bincount(assignment, minlength=len(centroids)) == 0)
        if not len(empty):
            return centroids, assignment
        rows = _strays(assignment, cosine, digests, len(empty))
        centroids[empty[: len(rows)]] = _unit_rows(x, rows, str(centroids.device))
    raise ValueError(
        f"got k = {len(centroids)} clusters, of which {len(empty)} stay empty: that many rows "
        f"have the direction of another row. Expected k <= {len(centroids) - len(empty)} here; "
        "lower the number of clusters."
    )


def _unit_rows(x: np.ndarray, rows: np.ndarray, device: str) -> torch.Tensor:
    return normalize(torch.from_numpy(np.array(x[rows])).to(device).float())


def _initial_rows(digests: np.ndarray, k: int, seed: int) -> np.ndarray:
    """``k`` rows of distinct content in the order of a seeded permutation."""
    shuffled = np.random.default_rng(seed).permutation(len(digests))
    _, first = np.unique(digests[shuffled], return_index=True)
    return shuffled[np.sort(first)[:k]]


def _require_distinct(digests: np.ndarray, k: int) -> None:
    total, distinct = len(digests), len(np.unique(digests))
    if 1 == distinct < total:
        raise ValueError(
            f"all {total} rows are identical: the features are constant. Expected different rows; "
            "check the layers and the reference model that made them."
        )
    if not 1 <= k <= distinct:
        raise ValueError(
            f"got k = {k} clusters for {total} rows, {distinct} of them distinct; expected "
            f"1 <= k <= {distinct}. Lower the number of clusters or give more data."
        )


def _coinciding(centroids: np.ndarray) -> int:
    unit = normalize(torch.from_numpy(np.array(centroids, np.float32)))
    repeats = 0
    for start in range(0, len(unit), 1024):
        close = (unit[start : start + 1024] @ unit.T) > COINCIDING
        repeats += int(close.tril(start - 1).any(1).sum())
    return repeats
