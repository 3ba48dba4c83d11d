"""Spherical k-means: rows and centroids on the unit sphere, nearest by cosine.

COINCIDE and SemDeDup cluster with FAISS, whose versions give different subsets and which users
have seen collapse to one centroid. Here the answer depends on the rows, ``k``, ``iterations`` and
the seed alone. The nearest centroid is what a float32 product over tiles of one shape says
(``coincide.ops.kmeans_nearest``, which gets there with few distances), and centroid sums are
integers (fixed point, 2⁻⁴⁰), which add up to the same bits in any order. Rows are read in blocks
and shared by the ranks of torch.distributed where it is on; either way the bytes are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from coincide.ops.arrays import TILE, refuse_faults, release, row_digests, row_faults
from coincide.ops.kmeans_nearest import UNIT, Rows, assign, plain_nearest, rounding, unit_rows
from coincide.ops.kmeans_ranks import all_rows, share_of_rows, total

_REPAIRS = 20
COINCIDING = 1 - 1e-6
"""Centroids with a cosine above this are one point to float32."""


@dataclass(frozen=True)
class Iteration:
    """What is told of an iteration; the last assignment counts as one."""

    number: int
    cosines: int
    """Computed by this rank; plain Lloyd takes N * K over all ranks."""
    changed: int
    """Rows of this rank whose cluster is another."""


def spherical_kmeans(
    x: np.ndarray,
    k: int,
    iterations: int,
    seed: int,
    *,
    chunk_rows: int | None = None,
    device: str = "cpu",
    told: Callable[[Iteration], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Cluster the rows of ``x`` [N, D] by direction.

    ``x`` may be an fp16 memmap; ``chunk_rows`` only says how many rows are read at once. Starts
    from ``k`` distinct rows drawn with ``seed``; stops early once nothing moves. A cluster that
    runs empty restarts at the row farthest from its centroid. Under torch.distributed every rank
    calls this with the same arguments, works on its share of the rows and gets the whole answer.
    ``told`` hears of every iteration.

    Returns:
        ``centroids`` float32 [K, D] of unit norm and ``assignment`` int32 [N], the nearest
        centroid of every row, ties to the lowest; no cluster is empty.

    Raises:
        ValueError: NaN, Inf or zero rows, or fewer (distinct) rows than clusters.
    """
    first, last = share_of_rows(len(x))
    refuse_faults(
        all_rows(row_faults(x, chunk_rows, first, last), len(x), device), zero_allowed=False
    )
    digests = all_rows(row_digests(x, chunk_rows, first, last), len(x), device)
    _require_distinct(digests, k)
    start = start_centroids(x, digests, k, seed, device)
    lloyd = _Lloyd(x, digests, Rows.unknown(first, last, start.mean(0)), start, chunk_rows, told)
    for _ in range(iterations):
        if not lloyd.assign():
            break
        lloyd.update()
    return lloyd.settle()


def start_centroids(
    x: np.ndarray, digests: np.ndarray, k: int, seed: int, device: str = "cpu"
) -> torch.Tensor:
    """``k`` rows of distinct content (:func:`row_digests`) as unit vectors float32 [K, D]."""
    return _unit_rows(x, _initial_rows(digests, k, seed), device)


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


class _Lloyd:
    """The state of Lloyd's iterations on this rank's share of the rows."""

    def __init__(
        self,
        x: np.ndarray,
        digests: np.ndarray,
        rows: Rows,
        centroids: torch.Tensor,
        chunk_rows: int | None,
        told: Callable[[Iteration], None] | None,
    ) -> None:
        self.x, self.digests, self.rows, self.centroids = x, digests, rows, centroids
        self.chunk_rows = chunk_rows
        self.told = told
        self.sums = torch.zeros(centroids.shape, dtype=torch.int64, device=centroids.device)
        """Of this rank's rows, fixed-point."""
        self.moved = np.full(len(centroids), np.pi)
        self.number = 0

    def assign(self) -> bool:
        """Every row to its nearest centroid, a stray to every empty one; whether any changed."""
        before = self.rows.nearest.copy()
        self._search(before)
        empty = self._empty()
        if len(empty):
            nearest = all_rows(self.rows.nearest, len(self.x), self._device)
            self._refill(nearest, empty)
        changed = torch.tensor([int((before != self.rows.nearest).any())], device=self._device)
        return bool(total(changed))

    def update(self) -> None:
        """Centroids to the means of their rows."""
        self._move_to(_means(total(self.sums), self.centroids))
        if self.number == 1:  # means of clusters lie closer together than single rows
            self.rows.recentre(self.centroids.mean(0))

    def settle(self) -> tuple[np.ndarray, np.ndarray]:
        """Final centroids and assignment; empty clusters restart at strays until none is empty.

        Every restart raises the summed cosine, so this ends unless float32 cannot tell rows apart.
        """
        for _ in range(_REPAIRS):
            self._search(self.rows.nearest.copy())
            empty = self._empty()
            nearest = all_rows(self.rows.nearest, len(self.x), self._device)
            if not len(empty):
                return self.centroids.cpu().numpy(), nearest.astype(np.int32)
            strays = self._strays(nearest, len(empty))
            restarted = self.centroids.clone()
            restarted[torch.from_numpy(empty[: len(strays)])] = _unit_rows(
                self.x, strays, self._device
            )
            self._move_to(restarted)
        k = len(self.centroids)
        raise ValueError(
            f"got k = {k} clusters, of which {len(empty)} stay empty: that many rows "
            f"have the direction of another row. Expected k <= {k - len(empty)} here; "
            "lower the number of clusters."
        )

    @property
    def _device(self) -> str:
        return str(self.centroids.device)

    def _search(self, before: np.ndarray) -> None:
        cosines = assign(self.x, self.rows, self.centroids, self.moved, self.sums, self.chunk_rows)
        self.moved = np.zeros(len(self.centroids))
        self.number += 1
        if self.told:
            changed = int((before != self.rows.nearest).sum())
            self.told(Iteration(self.number, cosines, changed))

    def _empty(self) -> np.ndarray:
        """The clusters without a row, ascending."""
        sizes = np.bincount(self.rows.nearest, minlength=len(self.centroids))
        return np.flatnonzero(total(torch.from_numpy(sizes).to(self._device)).cpu().numpy() == 0)

    def _refill(self, nearest: np.ndarray, empty: np.ndarray) -> None:
        """Move one row into every empty cluster, in the rows and their sums, exactly."""
        strays = self._strays(nearest, len(empty))
        for row, cluster in zip(strays, empty, strict=False):
            mine = row - self.rows.first
            if 0 <= mine < len(self.rows.nearest):
                unit = (_unit_rows(self.x, np.array([row]), self._device)[0] * UNIT).long()
                self.sums[int(nearest[row])] -= unit
                self.sums[int(cluster)] += unit
                self.rows.put(mine, cluster)

    def _strays(self, nearest: np.ndarray, count: int) -> np.ndarray:
        """The ``count`` distinct rows farthest from their centroids that leave no cluster empty.

        The plain product ranks them: of rows near the end by a bound on its error, no others.
        """
        own = all_rows(self._own_cosines(), len(self.x), self._device)
        reach = max(TILE, 4 * count)
        while True:
            low = np.argpartition(own, reach)[:reach] if reach < len(own) else np.arange(len(own))
            cosine = np.full(len(own), np.inf, np.float32)
            unit = _unit_rows(self.x, low, self._device)
            cosine[low] = plain_nearest(unit, self.centroids)[0].cpu().numpy()
            if reach < len(own):  # a row left out may come before those
                cosine[cosine >= own[low].max() - rounding(self.x.shape[1])] = np.inf
            rows = _strays(nearest, cosine, self.digests, count)
            if len(rows) == count or reach >= len(own):
                return rows
            reach *= 8

    def _own_cosines(self) -> np.ndarray:
        """Cosine float32 of this rank's rows to their centroids, to ``rounding`` of the product."""
        found = []
        for start in range(0, len(self.rows.nearest), TILE):
            stop = min(start + TILE, len(self.rows.nearest))
            at = self.rows.first
            unit = unit_rows(self.x, at + start, at + stop, self._device)
            own = self.centroids[torch.from_numpy(self.rows.nearest[start:stop])]
            found.append((unit * own).sum(1).cpu().numpy())
        return np.concatenate(found) if found else np.empty(0, np.float32)

    def _move_to(self, centroids: torch.Tensor) -> None:
        """Take the new centroids and note by how much each moved."""
        self.moved = np.maximum(self.moved, _turned(self.centroids, centroids))
        self.centroids = centroids


def _turned(before: torch.Tensor, after: torch.Tensor) -> np.ndarray:
    """Angle float64 [K] between unit rows of two matrices, rounded up; 0 where they are equal."""
    angles = []
    for a, b in zip(before.split(TILE), after.split(TILE), strict=True):
        chord = (b.double() - a.double()).norm(dim=1)
        angle = 2 * torch.arcsin((chord / 2).clamp(max=1))
        angles.append(torch.where(chord > 0, angle + 1e-6, 0.0).cpu().numpy())
    return np.concatenate(angles)


def _strays(
    assignment: np.ndarray, cosine: np.ndarray, digests: np.ndarray, count: int
) -> np.ndarray:
    """The ``count`` distinct rows farthest from their centroids that leave no cluster empty.

    ``cosine`` is infinite where a row's rank is not known.
    """
    left = np.bincount(assignment)
    rows: list[int] = []
    taken: set[int] = set()
    for row in np.argsort(cosine, kind="stable"):
        if len(rows) == count or cosine[row] == np.inf:
            break
        if left[assignment[row]] > 1 and digests[row] not in taken:
            rows.append(int(row))
            taken.add(digests[row])
            left[assignment[row]] -= 1
    return np.array(rows, np.int64)


def _means(sums: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
    """Unit means; where the members cancel out, the previous centroid stays."""
    means = torch.empty_like(previous)
    for start in range(0, len(sums), TILE):
        part, old = sums[start : start + TILE], previous[start : start + TILE]
        mean = normalize(part.double())
        means[start : start + TILE] = torch.where(
            (part != 0).any(1, keepdim=True), mean, old.double()
        ).float()
    return means


def _unit_rows(x: np.ndarray, rows: np.ndarray, device: str) -> torch.Tensor:
    taken = np.array(x[rows])
    release(x)
    return normalize(torch.from_numpy(taken).to(device).float())


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
