"""The nearest centroid of every row, as the plain product names it, from few of its distances.

Plain Lloyd takes the product of a tile of rows and all centroids in float32 and the first largest
value of each row. This module names the same centroid, bit for bit, with less work:

* **Bounds** (Hamerly 2010; the triangle inequality of angles on the sphere as in Schubert, Lang and
  Feher 2021, "Accelerating Spherical k-Means"). Of every row is known an angle ``near`` that its
  own centroid does not exceed and an angle ``far`` that no other one falls below. Centroids move;
  only those that moved at least ``far - near`` can have become nearer. Sorted by movement they are
  a prefix of the centroids: rows whose prefixes are about equal are multiplied together, so what
  is left is dense. In a late iteration most clusters have kept their members and do not move.
* **Half precision.** The products are taken in bfloat16 where the CPU has it, in float16 on a GPU,
  of the centroids less their mean: features have a common direction, and without it the rounding
  is relative to what tells centroids apart. Every row has a bound on the error that is measured,
  not estimated (what the row and the centroids lose in rounding, by Cauchy-Schwarz); centroids
  within it are candidates, and candidates are evaluated again in float32.
* **Near-ties.** Where the first two differ by less than a float32 product rounds, the plain product
  itself decides: such rows are collected into tiles of its shape. This relies on a row of a product
  not depending on the rows beside it, which ``tests/ops/test_kmeans_nearest.py`` checks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn.functional import normalize

from coincide.ops.arrays import TILE, block_rows, read_rows

UNIT = 2.0**40
"""Fixed-point scale of centroid sums: int64 holds 8 million unit rows."""
_SPARE = 0.5
"""Centroids that moved this share of ``far - near`` are looked at too, so that some is left."""
_ALIKE = 0.75
"""Rows multiplied together have prefixes of at least this share of the longest."""
_SMALL = 2**18
"""With fewer numbers in the centroids, all plain products take less time than the choice."""
_ROUNDING = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, torch.float32: 0.0}
"""Largest relative error of rounding a product to the type in which it is given back."""


@dataclass
class Rows:
    """What is known of the rows ``first, first + 1, ...`` from one iteration to the next."""

    first: int
    centre: torch.Tensor
    """float32 [D], taken off the centroids before they lose precision; any point will do."""
    nearest: np.ndarray
    """int64 [n], the cluster; -1 before the first search."""
    cosine: np.ndarray
    """float32 [n] to the own centroid; NaN where it moved since, or is not known."""
    near: np.ndarray
    """float64 [n], radians: the own centroid is no farther."""
    far: np.ndarray
    """float64 [n], radians: no other centroid is nearer; negative where nothing is known."""
    base: np.ndarray
    """float32 [n], the row's product with the centre; NaN where it is not known."""
    lost: np.ndarray
    """float32 [n], the length of what the row loses in half precision."""

    @staticmethod
    def unknown(first: int, last: int, centre: torch.Tensor) -> Rows:
        """Rows of which nothing is known yet."""
        n = last - first
        blank = [np.full(n, np.nan, np.float32) for _ in range(3)]
        nearest, far = np.full(n, -1, np.int64), np.full(n, -np.pi)
        return Rows(first, centre, nearest, blank[0], np.full(n, np.pi), far, *blank[1:])

    def put(self, row: int, cluster: int) -> None:
        """Move a row to a cluster by force; it is searched for in full next time."""
        self.nearest[row], self.cosine[row] = cluster, np.nan
        self.near[row], self.far[row] = np.pi, -np.pi

    def recentre(self, centre: torch.Tensor) -> None:
        """Take another centre."""
        self.centre = centre
        self.base[:] = np.nan


def rounding(width: int) -> float:
    """Bound on the error of a float32 product of unit vectors of ``width``, and of their lengths.

    Higham and Mary 2019, "A new approach to probabilistic rounding error analysis": at most
    10 √D units in the last place but for a chance of 1e-18, where the certain bound is D; 32 more
    for the lengths and for sums in a tree.
    """
    return (min(width, 10 * width**0.5) + 32) * 2.0**-24


def plain_nearest(unit: torch.Tensor, centroids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine float32 [n] and index int64 [n] of the nearest centroid; defines the assignment.

    Rows are multiplied in tiles of one shape, the last one zero-padded.
    """
    cosine, nearest = [], []
    for start in range(0, len(unit), TILE):
        part = unit[start : start + TILE]
        padded = torch.cat([part, part.new_zeros(TILE - len(part), part.shape[1])])
        best, index = (padded @ centroids.T).max(1)
        cosine.append(best[: len(part)])
        nearest.append(index[: len(part)])
    return torch.cat(cosine), torch.cat(nearest)


def unit_rows(x: np.ndarray, start: int, stop: int, device: str) -> torch.Tensor:
    """The rows as float32 unit vectors [n, D], tile by tile."""
    rows = torch.from_numpy(read_rows(x, start, stop)).to(device)
    unit = torch.empty(rows.shape, dtype=torch.float32, device=device)
    for at in range(0, len(rows), TILE):
        unit[at : at + TILE] = normalize(rows[at : at + TILE].float())
    return unit


def assign(
    x: np.ndarray,
    rows: Rows,
    centroids: torch.Tensor,
    moved: np.ndarray,
    sums: torch.Tensor,
    chunk_rows: int | None = None,
) -> int:
    """Bring ``rows`` to the centroids float32 [K, D] and ``sums`` int64 [K, D] to the rows.

    ``moved`` float64 [K]: the angle between each centroid and its predecessor, to which ``rows``
    refers. ``sums`` are the fixed-point sums of each cluster's unit rows and change with the rows
    that change cluster. Returns the number of cosines computed.
    """
    pending = _Pending(rows, centroids, sums)
    step = block_rows(x, chunk_rows)
    if centroids.numel() < _SMALL:
        return _assign_plainly(x, rows, pending, step)
    search = _Search(centroids, moved, rows.centre)
    own_moved = moved[rows.nearest]
    rows.near += own_moved
    rows.cosine[own_moved > 0] = np.nan
    prefix = search.prefix(rows.near, rows.far)
    rows.far[prefix == 0] -= search.moves[0]
    for start in range(0, len(prefix), step):
        active = np.flatnonzero(prefix[start : start + step])
        if len(active):
            unit = _block(x, rows, pending, start, step)
            _assign_block(search, rows, pending, unit, start, active)
    pending.decide(all_of_them=True)
    return search.cosines


def _assign_plainly(x: np.ndarray, rows: Rows, pending: _Pending, step: int) -> int:
    """Every row by the plain product."""
    for start in range(0, len(rows.nearest), step):
        unit = _block(x, rows, pending, start, step)
        places = np.arange(len(unit))
        _, nearest = plain_nearest(unit, pending.centroids)
        pending.change(start + places, unit, nearest, places)
    return len(rows.nearest) * len(pending.centroids)


def _block(x: np.ndarray, rows: Rows, pending: _Pending, start: int, step: int) -> torch.Tensor:
    """Unit vectors of up to ``step`` rows from ``start`` on."""
    stop = min(start + step, len(rows.nearest))
    device = str(pending.centroids.device)
    return unit_rows(x, rows.first + start, rows.first + stop, device)


def _assign_block(
    search: _Search,
    rows: Rows,
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
        chosen = _take(unit, active[mine])
        found = search.among(chosen, rows, at[mine], length)
        _record(search, rows, pending, at[mine], chosen, found, length)


def _know(search: _Search, rows: Rows, unit: torch.Tensor, start: int, active: np.ndarray) -> None:
    """Fill in what is missing of the ``active`` rows: own cosine, product with the centre, loss."""
    missing = active[np.isnan(rows.base[start + active])]
    for some in np.split(missing, range(TILE, len(missing), TILE)):
        base, lost = search.of_rows(_take(unit, some))
        rows.base[start + some], rows.lost[start + some] = base.cpu().numpy(), lost.cpu().numpy()
    nearest, cosine = rows.nearest[start + active], rows.cosine[start + active]
    unsure = active[np.isnan(cosine) & (nearest >= 0)]
    found = search.cosine(unit, _index(unsure, unit), _index(rows.nearest[start + unsure], unit))
    rows.cosine[start + unsure] = found.cpu().numpy()
    rows.near[start + unsure] = _angle(rows.cosine[start + unsure], -search.margin)


def _alike(prefix: np.ndarray) -> Iterator[tuple[slice, int]]:
    """Cut descending ``prefix`` into parts of at most a tile and of like length; zeros are left."""
    start, end = 0, len(prefix) - np.searchsorted(prefix[::-1], 0, side="right")
    while start < end:
        longest = int(prefix[start])
        like = len(prefix) - np.searchsorted(prefix[::-1], _ALIKE * longest, side="left")
        stop = int(min(start + TILE, like, end))
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
    rows: Rows,
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

    def __init__(self, centroids: torch.Tensor, moved: np.ndarray, centre: torch.Tensor) -> None:
        order = np.argsort(-moved, kind="stable")
        self.moves = moved[order]
        self.margin = rounding(centroids.shape[1])
        self.cosines = 0
        self._centroids, self._centre = centroids, centre
        self._order = torch.from_numpy(order).to(centroids.device)
        self._half = torch.empty(centroids.shape, dtype=_half(centroids), device=centroids.device)
        self._reach = self._lost = 0.0
        for start in range(0, len(order), TILE):
            part = centroids[self._order[start : start + TILE]] - centre
            half = part.to(self._half.dtype)
            self._half[start : start + TILE] = half
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

    def among(self, unit: torch.Tensor, rows: Rows, at: np.ndarray, length: int) -> _Found:
        """The nearest of the first ``length`` centroids and the present one of rows ``at``."""
        self.cosines += len(unit) * length
        own = torch.from_numpy(rows.cosine[at]).to(unit.device).nan_to_num(-torch.inf)
        base, lost = (
            torch.from_numpy(known[at]).to(unit.device) for known in (rows.base, rows.lost)
        )
        nearest = _index(rows.nearest[at], unit)
        product = _product(unit.to(self._half.dtype), self._half[:length])
        top, index = product.topk(min(2, length), dim=1)
        top = torch.nn.functional.pad(top.float(), (0, 2 - top.shape[1]), value=-torch.inf)
        error = self._error(lost, top[:, 0])
        # the nearest has at least this cosine, and whatever may tie with it in float32
        floor = torch.maximum(base + top[:, 0] - error, own) - 2 * self.margin
        cut = floor - base - error
        row, column = _candidates(product, top, index, cut)
        candidate = self._order[column]
        other = candidate != nearest[row]
        row, candidate = row[other], candidate[other]
        cosine = self.cosine(unit, row, candidate)
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
        """Cosines float32 [p] of pairs, a tile at a time."""
        self.cosines += len(row)
        cosine = torch.empty(len(row), device=unit.device)
        for at in range(0, len(row), TILE):
            part = slice(at, at + TILE)
            rows = unit.index_select(0, row[part])
            cosine[part] = rows.mul_(self._centroids.index_select(0, centroid[part])).sum(1)
        return cosine


@dataclass
class _Pending:
    """Rows that wait until a tile of them is full, and the sums that follow every change."""

    rows: Rows
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
        _, nearest = plain_nearest(unit[:ready], self.centroids)
        self.change(at[:ready], unit, nearest, np.arange(ready))
        self._at, self._unit = [at[ready:]], [unit[ready:]]

    def change(
        self, at: np.ndarray, unit: torch.Tensor, nearest: torch.Tensor, places: np.ndarray
    ) -> None:
        """Rows ``at`` belong to ``nearest`` at ``places`` of ``unit`` from now on."""
        after, before = nearest.cpu().numpy()[places], self.rows.nearest[at]
        self.rows.nearest[at] = after
        changed = np.flatnonzero(after != before)
        known = np.flatnonzero(before[changed] >= 0)
        fixed = (_take(unit, places[changed]) * UNIT).long()
        self.sums.index_add_(0, _index(after[changed], unit), fixed)
        self.sums.index_add_(0, _index(before[changed[known]], unit), -_take(fixed, known))


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


def _take(unit: torch.Tensor, places: np.ndarray) -> torch.Tensor:
    return unit.index_select(0, _index(places, unit))


def _angle(cosine: np.ndarray, off: np.ndarray | float) -> np.ndarray:
    """Radians float64 [n] of the cosines shifted by ``off``."""
    return np.arccos(np.clip(cosine.astype(np.float64) + off, -1, 1))


def _half(centroids: torch.Tensor) -> torch.dtype:
    """The type of the first, inexact products: the fastest that the device multiplies."""
    if centroids.device.type == "cuda":
        return torch.float16
    if torch.cpu._is_avx512_bf16_supported():  # elsewhere it is slower than float32
        return torch.bfloat16
    return torch.float32


def _product(half: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """Half-precision [m, n], summed in float32."""
    with _sums_in_float32() if half.device.type == "cuda" else nullcontext():
        return half @ centroids.T


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
