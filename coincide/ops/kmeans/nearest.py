"""The nearest centroid of every row, bit for bit as a plain float32 product gives it, but faster.

Plain Lloyd multiplies a tile of rows with all centroids in float32 and takes the first largest
value of each row. This module finds the same centroid with fewer operations:

* **Bounds** (Hamerly 2010; the triangle inequality of angles on the sphere as in Schubert, Lang and
  Feher 2021, "Accelerating Spherical k-Means"). For every row two angles are kept: an upper bound
  ``near`` to its own centroid and a lower bound ``far`` to all others. After the centroids moved,
  only those that moved by at least ``far - near`` can have become nearer. Sorted by movement these
  are a prefix of the centroids. Rows with prefixes of similar length are multiplied together, so
  the remaining work is dense. In a late iteration most clusters keep their members and do not move.
* **Half precision.** Products are computed in bfloat16 where the CPU supports it, in float16 on a
  GPU, with the mean of the centroids subtracted: features share a common direction, and without it
  the rounding error is relative to the differences between centroids. The error bound of every row
  is computed from what row and centroids lose in rounding (Cauchy-Schwarz), not estimated.
  Centroids within the bound are candidates, and candidates are evaluated again in float32.
* **Near-ties.** Where the best two differ by less than the rounding error of a float32 product, the
  plain product decides: such rows are collected into tiles of its shape. This relies on a row of a
  product not depending on the rows beside it (on a CPU, not on its position either), which
  ``tests/ops/kmeans/test_nearest.py`` checks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch

from coincide.ops.arrays import TILE, block_rows
from coincide.ops.kmeans.rows import RowBounds
from coincide.ops.kmeans.units import (
    BufferPool,
    gathered_nearest,
    plain_nearest,
    row_blocks,
    row_cosines,
    unit_rows,
)

UNIT = 2.0**40
"""Fixed-point scale of centroid sums: int64 holds 8 million unit rows."""
_SPARE = 0.5
"""Centroids that moved by this share of ``far - near`` are compared as well, to keep some slack."""
_ALIKE = 0.75
"""Rows are multiplied together if their prefixes are at least this share of the longest one."""
_SMALL = 2**18
"""With fewer numbers in the centroids than this, plain products are faster than the bounds."""
_ROUNDING = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, torch.float32: 0.0}
"""Largest relative error of rounding a product to the type in which it is given back."""


def rounding(width: int) -> float:
    """Bound on the error of a float32 product of unit vectors of ``width``, and of their lengths.

    Higham and Mary 2019, "A new approach to probabilistic rounding error analysis": at most
    10 √D units in the last place but for a chance of 1e-18, where the certain bound is D; 32 more
    for the lengths and for sums in a tree.
    """
    return (min(width, 10 * width**0.5) + 32) * 2.0**-24


def assign(
    x: np.ndarray,
    rows: RowBounds,
    centroids: torch.Tensor,
    moved: np.ndarray,
    sums: torch.Tensor,
    buffers: BufferPool,
    chunk_rows: int | None = None,
) -> int:
    """Assign every row to its nearest centroid: updates ``rows`` and ``sums`` in place.

    ``x`` [N, D]; ``centroids`` float32 [K, D]; ``moved`` float64 [K], the angle in radians between
    each centroid and the one of the previous iteration, to which the bounds in ``rows`` refer.
    ``sums`` int64 [K, D] are the fixed-point sums of each cluster's unit rows and change with the
    rows that change cluster. ``buffers`` are reused from one call to the next. Returns the number
    of cosines computed.
    """
    pending = _Pending(rows, centroids, sums)
    step = block_rows(x, chunk_rows)
    if centroids.numel() < _SMALL:
        return _assign_plainly(x, rows, pending, buffers, step)
    search = _Search(centroids, moved, rows.centre, buffers)
    own_moved = moved[rows.nearest]
    rows.near += own_moved
    rows.cosine[own_moved > 0] = np.nan
    prefix = search.prefix(rows.near, rows.far)
    rows.far[prefix == 0] -= search.moves[0]
    for start in range(0, len(prefix), step):
        active = np.flatnonzero(prefix[start : start + step])
        if len(active):
            unit = _block(x, rows, buffers, start, step)
            _assign_block(search, rows, pending, unit, start, active)
    pending.decide(all_of_them=True)
    return search.cosines


def _assign_plainly(
    x: np.ndarray, rows: RowBounds, pending: _Pending, buffers: BufferPool, step: int
) -> int:
    """Every row by the plain product."""
    for start in range(0, len(rows.nearest), step):
        unit = _block(x, rows, buffers, start, step)
        places = np.arange(len(unit))
        _, nearest = plain_nearest(unit, pending.centroids)
        pending.change(start + places, unit, nearest, places)
    return len(rows.nearest) * len(pending.centroids)


def _block(
    x: np.ndarray, rows: RowBounds, buffers: BufferPool, start: int, step: int
) -> torch.Tensor:
    """Unit vectors of up to ``step`` rows from ``start`` on."""
    stop = min(start + step, len(rows.nearest))
    return unit_rows(x, rows.first + start, rows.first + stop, buffers)


def _assign_block(
    search: _Search,
    rows: RowBounds,
    pending: _Pending,
    unit: torch.Tensor,
    start: int,
    active: np.ndarray,
) -> None:
    """Search for the ``active`` rows of a block of unit rows that begins at ``start``."""
    at = start + active
    _know(search, rows, unit, start, active)
    prefix = search.prefix(rows.near[at], rows.far[at])
    rows.far[at[prefix == 0]] -= search.moves[0]
    order = np.argsort(-prefix, kind="stable")
    for part, length in _alike(prefix[order]):
        mine = order[part]
        chosen = search.buffers.get("chosen", (len(mine), unit.shape[1]), unit.dtype)
        torch.index_select(unit, 0, _index(active[mine], unit), out=chosen)
        found = search.among(chosen, rows, at[mine], length)
        _record(search, rows, pending, at[mine], chosen, found, length)


def _know(
    search: _Search, rows: RowBounds, unit: torch.Tensor, start: int, active: np.ndarray
) -> None:
    """Fill in what is missing of the ``active`` rows: own cosine, product with the centre, loss."""
    # rows seen for the first time since the centre moved: product with it, rounding loss
    missing = active[np.isnan(rows.base[start + active])]
    for piece in row_blocks(len(missing), unit.device):
        some = missing[piece]
        base, lost = search.of_rows(unit.index_select(0, _index(some, unit)))
        rows.base[start + some], rows.lost[start + some] = base.cpu().numpy(), lost.cpu().numpy()
    # rows whose own centroid moved: the cosine to it in float32
    nearest, cosine = rows.nearest[start + active], rows.cosine[start + active]
    unsure = active[np.isnan(cosine) & (nearest >= 0)]
    found = search.cosine(unit, _index(unsure, unit), _index(rows.nearest[start + unsure], unit))
    rows.cosine[start + unsure] = found.cpu().numpy()
    # less than the cosine by its rounding error: a certain bound on the angle
    rows.near[start + unsure] = _angle(rows.cosine[start + unsure], -search.margin)


def _alike(prefix: np.ndarray) -> Iterator[tuple[slice, int]]:
    """Cut descending ``prefix`` into parts of at most a tile and of like length; zeros are left."""
    start, end = 0, len(prefix) - np.searchsorted(prefix[::-1], 0, side="right")
    while start < end:
        longest = int(prefix[start])
        like = len(prefix) - np.searchsorted(prefix[::-1], _ALIKE * longest, side="left")
        stop = min(start + TILE, int(like), int(end))
        yield slice(start, stop), longest
        start = stop


@dataclass
class _Found:
    """Of m rows: the nearest centroid, its cosine, a bound on all other cosines looked at."""

    nearest: torch.Tensor
    cosine: torch.Tensor
    rest: torch.Tensor
    tied: torch.Tensor
    """Where float32 cannot tell the first two apart."""


def _record(
    search: _Search,
    rows: RowBounds,
    pending: _Pending,
    at: np.ndarray,
    unit: torch.Tensor,
    found: _Found,
    length: int,
) -> None:
    """Write what was found into ``rows`` and ``sums``; ties wait for the plain product."""
    cosine, tied = found.cosine.cpu().numpy(), found.tied.cpu().numpy()
    rows.cosine[at] = np.where(tied, np.nan, cosine)
    # the plain product may prefer another centroid within twice its rounding
    rows.near[at] = _angle(cosine, np.where(tied, -3, -1) * search.margin)
    far = _angle(np.where(tied, cosine, found.rest.cpu().numpy()), search.margin)
    if length < len(search.moves):
        far = np.minimum(far, rows.far[at] - search.moves[length])
    rows.far[at] = far
    pending.change(at[~tied], unit, found.nearest, np.flatnonzero(~tied))
    if tied.any():
        pending.add(at[tied], unit[found.tied])


class _Search:
    """Centroids ready to be searched: in the order of their movement, centred, in half."""

    def __init__(
        self, centroids: torch.Tensor, moved: np.ndarray, centre: torch.Tensor, buffers: BufferPool
    ) -> None:
        self.buffers = buffers
        order = np.argsort(-moved, kind="stable")
        self.moves = moved[order]
        self.margin = rounding(centroids.shape[1])
        self.cosines = 0
        self._centroids, self._centre = centroids, centre
        self._order = torch.from_numpy(order).to(centroids.device)
        self._half = torch.empty(centroids.shape, dtype=_half(centroids), device=centroids.device)
        self._reach = self._lost = 0.0
        for piece in row_blocks(len(order), centroids.device):
            part = centroids[self._order[piece]] - centre
            half = self._half[piece].copy_(part)
            self._reach = max(self._reach, float(part.norm(dim=1).max()))
            self._lost = max(self._lost, float((part - half).norm(dim=1).max()))

    def prefix(self, near: np.ndarray, far: np.ndarray) -> np.ndarray:
        """How many centroids, in the order of movement, each row must be compared with; int64."""
        reach = _angle(np.cos(np.minimum(near, np.pi)), -2 * self.margin)
        slack = far - reach
        length = len(self.moves) - np.searchsorted(self.moves[::-1], _SPARE * slack, side="left")
        length[slack > self.moves[0]] = 0
        length[slack <= 0] = len(self.moves)
        return length

    def of_rows(self, unit: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Products with the centre and the lengths lost in half precision, float32 [m]."""
        return unit @ self._centre, (unit - unit.to(self._half.dtype)).norm(dim=1)

    def among(self, unit: torch.Tensor, rows: RowBounds, at: np.ndarray, length: int) -> _Found:
        """The nearest of the first ``length`` centroids and the present one of rows ``at``."""
        self.cosines += len(unit) * length
        # what is known of the rows: cosine to their own centroid, product with the centre, loss
        own = torch.from_numpy(rows.cosine[at]).to(unit.device).nan_to_num(-torch.inf)
        base, lost = (
            torch.from_numpy(known[at]).to(unit.device) for known in (rows.base, rows.lost)
        )
        nearest = _index(rows.nearest[at], unit)
        # inexact products with all centroids of the prefix, and the two largest
        half = self.buffers.get("half", tuple(unit.shape), self._half.dtype).copy_(unit)
        product = self.buffers.get("product", (len(unit), length), self._half.dtype)
        _multiply(half, self._half[:length], product)
        top, index = product.topk(min(2, length), dim=1)
        top = torch.nn.functional.pad(top.float(), (0, 2 - top.shape[1]), value=-torch.inf)
        # bound on the error of these products
        error = self._error(lost, top[:, 0])
        # the nearest has at least this cosine, and whatever may tie with it in float32
        floor = torch.maximum(base + top[:, 0] - error, own) - 2 * self.margin
        # candidates: all centroids whose inexact product reaches that, the own one aside
        cut = floor - base - error
        row, column = _candidates(product, top, index, cut)
        candidate = self._order[column]
        other = candidate != nearest[row]
        row, candidate = row[other], candidate[other]
        # their cosines in float32
        cosine = self.cosine(unit, row, candidate)
        # upper bound on the cosines of all others
        count = (top >= cut[:, None]).sum(1)
        seen = top.gather(1, count.clamp(max=1)[:, None])[:, 0]
        unseen = torch.where(count > 1, floor, base + seen + error)
        return self._decide(own, nearest, row, candidate, cosine, unseen)

    def _decide(
        self,
        own: torch.Tensor,
        nearest: torch.Tensor,
        row: torch.Tensor,
        candidate: torch.Tensor,
        cosine: torch.Tensor,
        unseen: torch.Tensor,
    ) -> _Found:
        """The best of each row's own cosine and its candidates', and the second best."""
        best = own.scatter_reduce(0, row, cosine, "amax")
        better = (cosine == best[row]) & (cosine > own[row])
        winner = nearest.clone()
        winner[row[better]] = candidate[better]
        beaten = candidate != winner[row]
        second = torch.where(winner == nearest, -torch.inf, own)
        second = second.scatter_reduce(0, row[beaten], cosine[beaten], "amax")
        tied = second >= best - 2 * self.margin
        return _Found(winner, best, torch.maximum(second, unseen), tied)

    def _error(self, lost: torch.Tensor, top: torch.Tensor) -> torch.Tensor:
        """Bound on the error of a row's products, from what it lost; certain, by Cauchy-Schwarz."""
        summing = self._half.shape[1] * 2.0**-23 * self._reach
        giving_back = _ROUNDING[self._half.dtype] * top.abs()
        parts = lost * self._reach + 1.01 * self._lost + summing + giving_back
        return 1.02 * parts + 2 * self.margin

    def cosine(self, unit: torch.Tensor, row: torch.Tensor, centroid: torch.Tensor) -> torch.Tensor:
        """Cosines float32 [p] of pairs of rows and centroids, one by one."""
        self.cosines += len(row)
        return row_cosines(unit, row, self._centroids, centroid)


@dataclass
class _Pending:
    """Rows that wait until a tile of them is full, and the sums that follow every change."""

    rows: RowBounds
    centroids: torch.Tensor
    sums: torch.Tensor
    _at: list[np.ndarray] = field(default_factory=list)
    _unit: list[torch.Tensor] = field(default_factory=list)

    def add(self, at: np.ndarray, unit: torch.Tensor) -> None:
        """Put rows off; decides whole tiles of them."""
        self._at.append(at)
        self._unit.append(unit)
        self.decide(all_of_them=False)

    def decide(self, *, all_of_them: bool) -> None:
        """Assign the rows put off as the plain product does, but for an unfilled tile."""
        waiting = sum(map(len, self._at))
        ready = waiting if all_of_them else waiting // TILE * TILE
        if not ready:
            return
        at, unit = np.concatenate(self._at), torch.cat(self._unit)
        nearest = gathered_nearest(unit[:ready], self.rows.first + at[:ready], self.centroids)
        self.change(at[:ready], unit, nearest, np.arange(ready))
        self._at, self._unit = [at[ready:]], [unit[ready:]]

    def change(
        self, at: np.ndarray, unit: torch.Tensor, nearest: torch.Tensor, places: np.ndarray
    ) -> None:
        """Rows ``at`` belong to ``nearest`` at ``places`` of ``unit`` from now on."""
        after, before = nearest.cpu().numpy()[places], self.rows.nearest[at]
        self.rows.nearest[at] = after
        changed = np.flatnonzero(after != before)
        for piece in row_blocks(len(changed), unit.device):
            some = changed[piece]
            fixed = unit.index_select(0, _index(places[some], unit)).mul_(UNIT).long()
            self.sums.index_add_(0, _index(after[some], unit), fixed)
            known = np.flatnonzero(before[some] >= 0)
            old = _index(before[some[known]], unit)
            self.sums.index_add_(0, old, fixed.index_select(0, _index(known, unit)).neg_())


def _candidates(
    product: torch.Tensor, top: torch.Tensor, index: torch.Tensor, cut: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Row and column of every product of at least ``cut`` [m]: mostly one a row, the largest."""
    several = top[:, 1] >= cut
    single = (~several & (top[:, 0] >= cut)).nonzero()[:, 0]
    crowded = several.nonzero()[:, 0]
    row, column = (product[crowded] >= cut[crowded, None]).nonzero(as_tuple=True)
    return torch.cat([single, crowded[row]]), torch.cat([index[single, 0], column])


def _index(numbers: np.ndarray, beside: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(numbers).to(beside.device)


def _angle(cosine: np.ndarray, off: np.ndarray | float) -> np.ndarray:
    """Radians float64 [n] of the cosines shifted by ``off``."""
    return np.arccos(np.clip(cosine.astype(np.float64) + off, -1, 1))


def _half(centroids: torch.Tensor) -> torch.dtype:
    """The type of the first, inexact products: the fastest that the device multiplies."""
    if centroids.device.type == "cuda":
        return torch.float16
    if getattr(torch.cpu, "_is_avx512_bf16_supported", bool)():  # else slower than float32
        return torch.bfloat16
    return torch.float32


def _multiply(half: torch.Tensor, centroids: torch.Tensor, product: torch.Tensor) -> None:
    """Into ``product`` [m, n], summed in float32."""
    with _sums_in_float32() if half.device.type == "cuda" else nullcontext():
        torch.mm(half, centroids.T, out=product)


@contextmanager
def _sums_in_float32() -> Iterator[None]:
    """Let cuBLAS not add parts of a product in half precision."""
    switch = torch.backends.cuda.matmul
    before = switch.allow_fp16_reduced_precision_reduction
    switch.allow_fp16_reduced_precision_reduction = False
    try:
        yield
    finally:
        switch.allow_fp16_reduced_precision_reduction = before
