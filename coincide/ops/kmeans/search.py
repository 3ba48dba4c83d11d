"""The search of a block of rows: parts of fixed shapes in half precision, and what settles them.

A part is multiplied with a prefix of the centroids. Where the largest product with another centroid
is further below that with the own one than the error bound, the row stays; the others are settled
by float32 cosines of the centroids within the bound, and what those cannot tell apart is left to
the plain product. oneDNN compiles a product for every shape, which takes as long as
multiplying millions of numbers: parts are filled up to one of few shapes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np
import torch

from coincide.ops.arrays import TILE
from coincide.ops.kmeans.blocks import Block
from coincide.ops.kmeans.rows import RowBounds
from coincide.ops.kmeans.units import (
    BufferPool,
    half_type,
    rounding,
    row_blocks,
    row_cosines,
)
from coincide.ops.threads import map_threads

_SPARE = 0.5
"""Centroids that moved by this share of ``far - near`` are compared as well, to keep some slack."""
_LENGTHS = 512
"""With fewer centroids than this, rows are compared with all: others would save less than they cost
in parts that are not full and products that are compiled."""
_LARGE = 2**35
"""From this number of rows x centroids x width on, a length is 0.85 of the next, else half."""
_TIGHTEN = 4096
"""From this number of centroids on, the cosine to the own one is computed before the search."""
_PRODUCTS = 2**20
"""Products of a part, about: what the cache holds."""
_ROUNDING = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, torch.float32: 0.0}
"""Largest relative error of rounding a product to the type in which it is given back."""


@dataclass
class _Part:
    """Of m rows: index in the block, in the share, assignment so far, product with the centre."""

    index: torch.Tensor
    at: np.ndarray
    nearest: np.ndarray
    base: torch.Tensor
    lost: torch.Tensor
    place: torch.Tensor
    """int64 [m], where the own centroid comes in the order of movement; a new row's is negative."""
    bound: torch.Tensor
    """Lower bound on the cosine to the own centroid if that is not in the prefix, else -inf."""


class Search:
    """Centroids ready to be searched: in the order of their movement, centred, in half."""

    def __init__(
        self, rows: RowBounds, centroids: torch.Tensor, moved: np.ndarray, buffers: BufferPool
    ) -> None:
        order = np.argsort(-moved, kind="stable")
        self.rows, self.moves, self.cosines = rows, moved[order], 0
        self._buffers = buffers
        self.margin = rounding(centroids.shape[1])
        self._centroids = centroids
        self._order = order
        self._place = np.empty(len(order), np.int64)
        self._place[order] = np.arange(len(order))
        large = len(rows.nearest) * centroids.numel() >= _LARGE
        self._lengths = _lengths(len(order), 0.85 if large else 0.5)
        fits = 2 ** int(np.log2(max(_PRODUCTS // len(order), 1)))
        share = -(-len(rows.nearest) // (buffers.threads * TILE)) * TILE
        self._part_rows = min(max(fits, TILE), 8 * TILE, max(share, TILE))
        self._half = buffers.get("centroids", tuple(centroids.shape), half_type(centroids.device))
        self._reach = self._lost = 0.0
        ordered = torch.from_numpy(order).to(centroids.device)
        for piece in row_blocks(len(order), centroids.device, centroids.shape[1]):
            part = centroids.index_select(0, ordered[piece]).sub_(rows.centre)
            half = self._half[piece].copy_(part)
            self._reach = max(self._reach, float(part.norm(dim=1).max()))
            if half.dtype != part.dtype:
                self._lost = max(self._lost, float(part.sub_(half).norm(dim=1).max()))

    def prefix(self, near: np.ndarray, far: np.ndarray) -> np.ndarray:
        """How many centroids, in the order of movement, each row must be compared with; int64."""
        reach = _angle(np.cos(np.minimum(near, np.pi)), -2 * self.margin)
        slack = far - reach
        last = len(self.moves)
        if len(self._lengths) == 1:
            return np.where(slack > self.moves[0], 0, last)
        length = last - np.searchsorted(self.moves[::-1], _SPARE * slack, side="left")
        length[slack > self.moves[0]] = 0
        length[slack <= 0] = last
        return length

    def block(self, block: Block, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Search for the ``active`` rows of a block.

        Returns the nearest centroid int64 of each of them, and bool whether it is not certain:
        there the plain product must decide.
        """
        rows, at = self.rows, block.start + active
        if len(self.moves) >= _TIGHTEN:
            self._tighten(block, active)
        prefix = self.prefix(rows.near[at], rows.far[at])
        rows.far[at[prefix == 0]] -= self.moves[0]
        nearest, tied = rows.nearest[at], np.zeros(len(at), bool)
        parts = list(self._parts(prefix))
        threads = min(self._buffers.threads, len(parts)) or 1
        free: SimpleQueue[BufferPool] = SimpleQueue()
        for pool in self._buffers.several(threads):
            free.put(pool)

        def one(part: tuple[np.ndarray, int]) -> None:
            mine, length = part
            pool = free.get()
            try:
                nearest[mine], tied[mine] = self._part(block, active[mine], length, pool)
            finally:
                free.put(pool)

        map_threads(one, parts, threads)
        self.cosines += sum(len(mine) * length for mine, length in parts)
        return nearest, tied

    def _parts(self, prefix: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
        """Cut rows into parts of at most some rows and one length; those of prefix 0 are left."""
        level = np.searchsorted(self._lengths, prefix)
        for which, length in enumerate(self._lengths.tolist()):
            mine = np.flatnonzero((level == which) & (prefix > 0))
            for start in range(0, len(mine), self._part_rows):
                yield mine[start : start + self._part_rows], length

    def _tighten(self, block: Block, active: np.ndarray) -> None:
        """Compute the cosines of rows to their own centroids, where those moved."""
        rows = self.rows
        at = block.start + active
        unsure = active[np.isnan(rows.cosine[at]) & (rows.nearest[at] >= 0)]
        at = block.start + unsure
        row = _index(unsure, block.unit)
        found = self._cosines(block, row, rows.nearest[at], self._buffers)
        rows.cosine[at] = found.cpu().numpy()
        # less than the cosine by its rounding error: a certain bound on the angle
        rows.near[at] = _angle(rows.cosine[at], -self.margin)

    def _part(
        self, block: Block, active: np.ndarray, length: int, buffers: BufferPool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Nearest centroid of the ``active`` rows, and whether it is uncertain; updates bounds."""
        part = self._ready(block, active, length)
        products = comparable(self._multiply(block, part.index, length, buffers))
        outside = part.bound > -torch.inf
        own, rest = take_own(products, part.place, outside)
        # bound on the error of these products
        error = self._error(part.lost, torch.maximum(own.abs(), rest.abs()))
        # the nearest has at least this cosine, and whatever may tie with it in float32
        own_least = torch.where(outside, part.bound, part.base + own - error)
        floor = torch.maximum(own_least, part.base + rest - error) - 2 * self.margin
        # candidates beside the own one: all centroids whose inexact product reaches that
        cut = floor - part.base - error
        unsettled = (rest >= cut).nonzero()[:, 0]
        nearest = self._order[part.place.cpu().numpy()]
        near = _angle((part.base + own - error).cpu().numpy(), 0.0)
        near[outside.cpu().numpy()] = np.pi  # nothing was learned of the own centroid
        far = _angle((part.base + rest + error).cpu().numpy(), 0.0)
        tied = np.zeros(len(active), bool)
        cosine = self.rows.cosine[part.at]
        if len(unsettled):
            some = unsettled.cpu().numpy()
            winner, best, tie, others = self._settle(
                block, part, products, nearest, cut, floor, unsettled, buffers
            )
            cosine[some] = np.where(tie, np.nan, best)
            nearest[some], tied[some] = winner, tie
            # the plain product may prefer another centroid within twice its rounding
            near[some] = _angle(best, np.where(tie, -3, -1) * self.margin)
            far[some] = _angle(others, self.margin)
        cosine[nearest != part.nearest] = np.nan
        same = (nearest == part.nearest) & ~tied
        near = np.where(same, np.minimum(near, self.rows.near[part.at]), near)
        self._record(part.at, near, far, cosine, length)
        return nearest, tied

    def _ready(self, block: Block, active: np.ndarray, length: int) -> _Part:
        rows, at = self.rows, block.start + active
        nearest = rows.nearest[at]
        place = np.where(nearest >= 0, self._place[nearest], -1)
        bound = np.full(len(at), -np.inf, np.float32)
        outside = place >= length
        bound[outside] = np.cos(np.minimum(rows.near[at[outside]], np.pi)) - self.margin
        base, lost, places, bounds = (
            torch.from_numpy(known).to(block.unit.device)
            for known in (rows.base[at], rows.lost[at], place, bound)
        )
        return _Part(_index(active, block.unit), at, nearest, base, lost, places, bounds)

    def _multiply(
        self, block: Block, index: torch.Tensor, length: int, buffers: BufferPool
    ) -> torch.Tensor:
        """Inexact products [m, length] in half, of a part filled up to its fixed shape."""
        filled = self._part_rows
        if len(index) <= filled // 4:
            filled //= 4
        half = buffers.get("half", (filled, block.half.shape[1]), block.half.dtype)
        torch.index_select(block.half, 0, index, out=half[: len(index)])
        product = buffers.get("product", (filled, length), half.dtype)
        with _sums_in_float32() if half.device.type == "cuda" else nullcontext():
            torch.mm(half, self._half[:length].T, out=product)
        return product[: len(index)]

    def _settle(
        self,
        block: Block,
        part: _Part,
        products: torch.Tensor,
        nearest: np.ndarray,
        cut: torch.Tensor,
        floor: torch.Tensor,
        unsettled: torch.Tensor,
        buffers: BufferPool,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Of rows with several candidates, by float32 cosines: nearest, its cosine, whether
        float32 cannot tell it from another, and a bound on the cosines of all others.
        """
        count = len(unsettled)
        limit, unlimited = limits(cut[unsettled], products.dtype)
        shape = (count, products.shape[1])
        some_products = buffers.get("some", shape, products.dtype)
        torch.index_select(products, 0, unsettled, out=some_products)
        reaching = buffers.get("reaching", shape, torch.bool)
        row, column = places_of(torch.ge(some_products, limit[:, None], out=reaching))
        row = torch.cat([torch.arange(count, device=row.device), row])
        some = unsettled.cpu().numpy()
        candidate = np.concatenate([nearest[some], self._order[column.cpu().numpy()]])
        cosine = self._cosines(block, part.index[unsettled[row]], candidate, buffers)
        best = torch.full((count,), -torch.inf, device=cosine.device)
        best = best.scatter_reduce(0, row, cosine, "amax")
        centroid = _index(candidate, row)
        winner = torch.zeros(count, dtype=torch.int64, device=row.device)
        wins = cosine == best[row]
        winner[row[wins]] = centroid[wins]
        beaten = centroid != winner[row]
        second = torch.full_like(best, -torch.inf)
        second = second.scatter_reduce(0, row[beaten], cosine[beaten], "amax")
        tied = (second >= best - 2 * self.margin) | unlimited
        others = torch.where(tied, best, torch.maximum(second, floor[unsettled]))
        others[unlimited] = 1.0
        return winner.cpu().numpy(), best.cpu().numpy(), tied.cpu().numpy(), others.cpu().numpy()

    def _record(
        self, at: np.ndarray, near: np.ndarray, far: np.ndarray, cosine: np.ndarray, length: int
    ) -> None:
        """Write the bounds of a part; the assignment follows once ties are decided."""
        if length < len(self.moves):
            far = np.minimum(far, self.rows.far[at] - self.moves[length])
        self.rows.near[at], self.rows.far[at], self.rows.cosine[at] = near, far, cosine

    def _error(self, lost: torch.Tensor, top: torch.Tensor) -> torch.Tensor:
        """Bound on the error of a row's products, from what it lost; certain, by Cauchy-Schwarz."""
        summing = self._half.shape[1] * 2.0**-23 * self._reach
        giving_back = _ROUNDING[self._half.dtype] * top.abs()
        parts = lost * self._reach + 1.01 * self._lost + summing + giving_back
        return 1.02 * parts + 2 * self.margin

    def _cosines(
        self, block: Block, row: torch.Tensor, centroid: np.ndarray, buffers: BufferPool
    ) -> torch.Tensor:
        """Cosines float32 [p] of pairs of rows of a block and centroids, one by one."""
        self.cosines += len(row)
        there = _index(centroid, block.unit)
        return row_cosines(block.unit, row, self._centroids, there, buffers)


def comparable(products: torch.Tensor) -> torch.Tensor:
    """``products`` as numbers that compare as fast as they can: bfloat16 on a CPU as its bits.

    As int16 those of positive numbers are in order and above those of all negative ones.
    """
    if products.device.type == "cpu" and products.dtype == torch.bfloat16:
        return products.view(torch.int16)
    return products


def take_own(
    products: torch.Tensor, place: torch.Tensor, outside: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Every row's product with its own centroid, and the largest of the others or a bound on it.

    Both float32 [m], of :func:`comparable` products [m, n]. ``place`` int64 [m] is the column of
    the own one; where it is negative the largest product is taken as the own, and ``place`` set.
    Own products are overwritten with the lowest number. Rows ``outside`` have the own one in no
    column: the other value stands in for it.
    """
    new = (place < 0).nonzero()[:, 0]
    if len(new):
        place[new] = _largest(products if len(new) == len(place) else products[new])
    bits = products.dtype == torch.int16
    lowest = torch.iinfo(torch.int16).min if bits else -torch.inf
    inside = (~outside).nonzero()[:, 0]
    own = products.new_zeros(len(place))
    own[inside] = products[inside, place[inside]]
    products[inside, place[inside]] = lowest
    if products.device.type == "cpu":
        rest = torch.from_numpy(products.numpy().max(1))
    else:
        rest = products.amax(1)
    if bits:  # among negative numbers the order is reversed: zero bounds them
        own, rest = own.view(torch.bfloat16), rest.clamp(min=0).view(torch.bfloat16)
    own, rest = own.float(), rest.float().clamp_(min=-2)  # a cosine less another is above that
    return torch.where(outside, rest, own), rest


def limits(cut: torch.Tensor, kind: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """``cut`` float32 [m] rounded down as a :func:`comparable` number, and where there is none."""
    if kind != torch.int16:
        return cut, torch.zeros(len(cut), dtype=torch.bool, device=cut.device)
    none = cut <= 0
    bits = (cut.view(torch.int32) >> 16).to(torch.int16)
    return bits.masked_fill_(none, torch.iinfo(torch.int16).max), none


def places_of(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Row and column int64 of every true of ``mask`` [m, n]; on a CPU numpy is faster."""
    if mask.device.type != "cpu":
        rows, columns = mask.nonzero(as_tuple=True)
        return rows, columns
    row, column = np.divmod(np.flatnonzero(mask.numpy()), mask.shape[1])
    return torch.from_numpy(row), torch.from_numpy(column)


def _largest(products: torch.Tensor) -> torch.Tensor:
    """The place int64 [m] of the largest of every row; on a CPU numpy is faster."""
    if products.device.type != "cpu":
        return products.argmax(1)
    return torch.from_numpy(products.numpy().argmax(1))


def _lengths(count: int, ratio: float) -> np.ndarray:
    """The lengths of prefixes that are multiplied, ascending, the last one ``count``."""
    found = [count]
    while found[-1] > max(count // 16, 8) and count >= _LENGTHS:
        found.append(int(found[-1] * ratio))
    return np.array(found[::-1])


def _index(numbers: np.ndarray, beside: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(numbers).to(beside.device)


def _angle(cosine: np.ndarray, off: np.ndarray | float) -> np.ndarray:
    """Radians float64 [n] of the cosines shifted by ``off``."""
    return np.arccos(np.clip(cosine.astype(np.float64) + off, -1, 1))


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
