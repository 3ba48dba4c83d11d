"""Spherical k-means by Lloyd's algorithm (1982), with the same bytes however the rows are read.

The nearest centroid is defined by a float32 product over tiles of one shape
(``coincide.ops.kmeans.nearest`` finds it with fewer products). Sums of centroids are integers
(fixed point, 2⁻⁴⁰), so the order of addition does not matter. Rows are read in blocks and divided
among the ranks of torch.distributed where it is initialised; neither changes the result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import normalize

from coincide.ops.arrays import (
    TILE,
    refuse_faults,
    release_pages,
    row_digests,
    row_faults,
    row_sums,
)
from coincide.ops.kmeans.blocks import UnitReader
from coincide.ops.kmeans.nearest import assign, is_small
from coincide.ops.kmeans.ranks import all_rows, ranks, share_of_rows, total
from coincide.ops.kmeans.rows import RowBounds
from coincide.ops.kmeans.state import EVERY, KMeansState, read_state, write_state
from coincide.ops.kmeans.sums import UNIT
from coincide.ops.kmeans.units import (
    BufferPool,
    angles_between,
    plain_nearest,
    rounding,
    row_cosines,
    unit_means,
)
from coincide.ops.threads import one_thread

_REPAIRS = 20
_ALONE = 2**30
"""With fewer rows x clusters x columns than this, one thread is faster than several."""


@dataclass(frozen=True)
class Iteration:
    """Figures of one iteration, for ``on_iteration``; the last assignment counts as one."""

    number: int
    cosines: int
    """Row-centroid cosines computed by this rank; plain Lloyd computes N * K over all ranks."""
    changed: int
    """Rows of this rank that changed cluster."""


def spherical_kmeans(
    x: np.ndarray,
    k: int,
    iterations: int,
    seed: int,
    *,
    chunk_rows: int | None = None,
    device: str = "cpu",
    on_iteration: Callable[[Iteration], None] | None = None,
    keep: Path | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Cluster the rows of ``x`` [N, D] by direction.

    ``x`` may be an fp16 memmap; ``chunk_rows`` is how many rows are read at once. Starts from ``k``
    distinct rows drawn with ``seed``; stops early once no assignment changes. An empty cluster is
    restarted at the row farthest from its centroid. Under torch.distributed every rank calls this
    with the same arguments, works on its share of the rows and returns the whole result.
    ``on_iteration`` is called after every iteration. ``keep`` is a file to which the state is
    written every few iterations; a later call that finds it resumes from it, to the same result.

    Returns:
        ``centroids`` float32 [K, D] of unit norm and ``assignment`` int32 [N], the nearest
        centroid of every row, ties to the lowest; no cluster is empty.

    Raises:
        ValueError: NaN, Inf or zero rows, or fewer (distinct) rows than clusters.
    """
    with one_thread() as threads:
        first, last = share_of_rows(len(x))
        refuse_faults(
            all_rows(row_faults(x, chunk_rows, first, last), len(x), device), zero_allowed=False
        )
        digests = _digests(x, chunk_rows, first, last, device)
        _require_distinct(digests, k)
        state = read_state(keep)
        start = (
            torch.from_numpy(state.centroids).to(device)
            if state
            else start_centroids(x, digests, k, seed, device)
        )
        rows = RowBounds.unknown(first, last, start.mean(0))
        lloyd = _Lloyd(x, digests, rows, start, chunk_rows, on_iteration, threads)
        if state:
            lloyd.number, lloyd.previous = state.done, state.nearest[first:last]
        while lloyd.number < iterations and lloyd.assign():
            lloyd.update()
            if keep and lloyd.number % EVERY == 0:
                lloyd.write(keep)
        return lloyd.settle()


def start_centroids(
    x: np.ndarray, digests: np.ndarray, k: int, seed: int, device: str = "cpu"
) -> torch.Tensor:
    """``k`` rows of distinct content, drawn with ``seed``, as unit vectors float32 [K, D].

    ``digests`` uint64 [N] is :func:`row_digests` of ``x``.
    """
    return _unit_rows(x, _initial_rows(digests, k, seed), device)


class _Lloyd:
    """The state of Lloyd's iterations on this rank's share of the rows."""

    def __init__(
        self,
        x: np.ndarray,
        digests: np.ndarray,
        rows: RowBounds,
        centroids: torch.Tensor,
        chunk_rows: int | None,
        on_iteration: Callable[[Iteration], None] | None,
        threads: int,
    ) -> None:
        self.x, self.digests, self.rows, self.centroids = x, digests, rows, centroids
        self.on_iteration = on_iteration
        self.sums = torch.zeros(centroids.shape, dtype=torch.int64, device=centroids.device)
        """Of this rank's rows, fixed-point."""
        if len(rows.nearest) * centroids.numel() < _ALONE:
            threads = 1
        buffers = BufferPool(centroids.device, threads)
        self.reader = UnitReader(x, rows, buffers, chunk_rows, is_small(centroids))
        self.moved = np.full(len(centroids), np.pi)
        self.number = 0
        self.previous = rows.nearest.copy()
        self._at_update = self.previous

    def assign(self) -> bool:
        """Every row to its nearest centroid, a stray to every empty one; whether any changed."""
        self._search()
        empty = self._empty()
        if len(empty):
            nearest = all_rows(self.rows.nearest, len(self.x), self._device)
            self._refill(nearest, empty)
        changed = torch.tensor([(self.previous != self.rows.nearest).any()], device=self._device)
        self.previous = self.rows.nearest.copy()
        return bool(total(changed.long()))

    def update(self) -> None:
        """Centroids to the means of their rows, those whose rows changed."""
        changed = self._changed()
        centroids = self.centroids.clone()
        centroids[changed] = unit_means(total(self.sums[changed]), self.centroids[changed])
        self._move_to(centroids, changed)
        if self.number == 1:  # means of clusters lie closer together than single rows
            self.rows.recentre(self.centroids.mean(0))

    def write(self, keep: Path) -> None:
        """Keep the state in a file."""
        nearest = all_rows(self.rows.nearest, len(self.x), self._device)
        if ranks()[0] == 0:
            write_state(keep, KMeansState(self.number, self.centroids.cpu().numpy(), nearest))

    def settle(self) -> tuple[np.ndarray, np.ndarray]:
        """Final centroids and assignment; empty clusters restart at strays until none is empty.

        Every restart raises the summed cosine, so this ends unless float32 cannot tell rows apart.
        """
        for _ in range(_REPAIRS):
            self._search()
            empty = self._empty()
            nearest = all_rows(self.rows.nearest, len(self.x), self._device)
            if not len(empty):
                return self.centroids.cpu().numpy(), nearest.astype(np.int32)
            strays = self._strays(nearest, len(empty))
            restarted = self.centroids.clone()
            places = torch.from_numpy(empty[: len(strays)]).to(self._device)
            restarted[places] = _unit_rows(self.x, strays, self._device)
            self._move_to(restarted, places)
        k = len(self.centroids)
        raise ValueError(
            f"got k = {k} clusters, of which {len(empty)} stay empty: that many rows "
            f"have the direction of another row. Expected k <= {k - len(empty)} here; "
            "lower the number of clusters."
        )

    def _changed(self) -> torch.Tensor:
        """Clusters, ascending int64, that rows of any rank entered or left since the last call."""
        now, then = self.rows.nearest, self._at_update
        rows = np.flatnonzero(now != then)
        counts = np.bincount(now[rows], minlength=len(self.centroids))
        left = then[rows]
        counts += np.bincount(left[left >= 0], minlength=len(self.centroids))
        self._at_update = now.copy()
        return total(torch.from_numpy(counts).to(self._device)).nonzero()[:, 0]

    @property
    def _device(self) -> str:
        return str(self.centroids.device)

    def _search(self) -> None:
        cosines = assign(self.reader, self.centroids, self.moved, self.sums)
        self.moved = np.zeros(len(self.centroids))
        self.number += 1
        if self.on_iteration:
            changed = int((self.previous != self.rows.nearest).sum())
            self.on_iteration(Iteration(self.number, cosines, changed))

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
            for some in np.split(np.sort(low), range(TILE, len(low), TILE)):
                unit = _unit_rows(self.x, some, self._device)
                cosine[some] = plain_nearest(unit, self.centroids)[0].cpu().numpy()
            if reach < len(own):  # a row left out may come before those
                cosine[cosine >= own[low].max() - rounding(self.x.shape[1])] = np.inf
            rows = _strays(nearest, cosine, self.digests, count)
            if len(rows) == count or reach >= len(own):
                return rows
            reach *= 8

    def _own_cosines(self) -> np.ndarray:
        """Cosine float32 of this rank's rows to their centroids, to ``rounding`` of the product."""
        rows = self.rows
        own = np.empty(len(rows.nearest), np.float32)
        for block, every in self.reader.blocks(np.ones(len(own), bool)):
            here = slice(block.start, block.start + len(every))
            nearest = torch.from_numpy(rows.nearest[here]).to(self.centroids.device)
            row = torch.from_numpy(every).to(self.centroids.device)
            found = row_cosines(block.unit, row, self.centroids, nearest, self.reader.buffers)
            own[here] = found.cpu().numpy()
        return own

    def _move_to(self, centroids: torch.Tensor, changed: torch.Tensor) -> None:
        """Take the new centroids, of which those ``changed`` moved, and note by how much."""
        angles = np.zeros(len(centroids))
        angles[changed.cpu().numpy()] = angles_between(self.centroids[changed], centroids[changed])
        self.moved = np.maximum(self.moved, angles)
        self.centroids = centroids


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


def _unit_rows(x: np.ndarray, rows: np.ndarray, device: str) -> torch.Tensor:
    taken = np.array(x[rows])
    release_pages(x)
    return normalize(torch.from_numpy(taken).to(device).float())


def _digests(
    x: np.ndarray, chunk_rows: int | None, first: int, last: int, device: str
) -> np.ndarray:
    """uint64 [N], equal where rows of ``x`` are equal, of which this rank has a share.

    Sums of words, and digests of the rows whose sum another row has too.
    """
    found = all_rows(row_sums(x, chunk_rows, first, last), len(x), device)
    _, which, count = np.unique(found, return_inverse=True, return_counts=True)
    again = np.flatnonzero(count[which] > 1)
    if len(again):
        mine = again[(again >= first) & (again < last)]
        digests = np.zeros(last - first, np.uint64)
        for some in np.split(mine, range(TILE, len(mine), TILE)):
            digests[some - first] = row_digests(np.array(x[some]))
            release_pages(x)
        found[again] = all_rows(digests, len(x), device)[again]
    return found


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
