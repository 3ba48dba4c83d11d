"""Exact nearest neighbours: no N x N matrix is held, and each pair is compared once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, get_args

import numpy as np
import torch

from coincide.ops.arrays import TILE, require_finite_rows, row_digests
from coincide.ops.clusters import LazyRows
from coincide.ops.knn.distances import Metric, pair_distances
from coincide.ops.knn.near import Near, RowPairs
from coincide.ops.knn.screen import (
    OUTSIDE,
    Screen,
    Vectors,
    at_most,
    coarse_width,
    half_type,
    principal,
)
from coincide.ops.threads import map_threads

_SMALL = 2**22
"""With fewer numbers than this, products in float64 alone."""
_HELD_BYTES = 2**31
"""Vectors of the first screen that are held; of more they are made anew for every product."""
_SAMPLE = 2048
_COARSE_ROWS = 2**15
"""With fewer rows than this no principal directions are looked for."""
_FEW = 2**9
"""Pairs of two tiles that a coarse screen may leave; with more, a finer one looks at the tiles."""


def knn(
    x: Any,
    k: int,
    *,
    metric: Metric = "sqeuclidean",
    tile_rows: int | None = None,
    device: str = "cpu",
    threads: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` nearest other rows of every row of ``x`` [N, D], nearest first.

    Distances are ``|a - b|²`` or ``1 - cos(a, b)`` of the rows as float32, to the nearest float32
    number; rows are equal (distance 0) where ``coincide.ops.knn.distances.RESOLUTION`` says so. A
    row is not its own neighbour, but an equal row is; ties go to the lowest row. ``x`` may be a
    memmap. ``tile_rows`` (rows that are multiplied together), ``threads``, ``device`` and the
    processor do not change the result.

    Returns:
        ``neighbors`` int64 [N, k] and ``distances`` float32 [N, k].

    Raises:
        ValueError: NaN or Inf rows, zero rows under ``cosine``, ``k`` not in 1..N-1.
    """
    if metric not in get_args(Metric):
        raise ValueError(f"got metric {metric!r}; choices: {', '.join(get_args(Metric))}")
    require_finite_rows(x, zero_allowed=metric == "sqeuclidean")
    if not 1 <= k < len(x):
        raise ValueError(f"got k = {k} neighbours for {len(x)} rows; expected 1 to {len(x) - 1}")
    copies = _Copies(x, k)
    rows = tile_rows or (TILE if device == "cpu" else 4 * TILE)
    search = _Search(x, copies.few, k, metric, device, rows)
    tiles = range(len(search.near))
    at_once = threads if device == "cpu" else 1
    map_threads(lambda tile: search.compare(tile, [tile]), tiles, at_once)
    search.prepare()
    map_threads(lambda tile: search.compare(tile, tiles[tile + 1 :]), tiles, at_once)
    map_threads(search.settle, tiles, at_once)
    ranked = copies.complete(search.keys())
    return (ranked & 0xFFFFFFFF), (ranked >> 32).astype(np.int32).view(np.float32)


class _Copies:
    """Rows that repeat others: of equal rows only the first ``k + 1`` can be neighbours."""

    def __init__(self, x: Any, k: int) -> None:
        digests = row_digests(x)
        _, first, group = np.unique(digests, return_index=True, return_inverse=True)
        order = np.argsort(group, kind="stable")
        turn = np.empty(len(order), np.int64)
        sizes = np.bincount(group)
        turn[order] = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        self.few = np.flatnonzero(turn <= k)
        self.more = np.flatnonzero(turn > k)
        self.like = first[group[self.more]]
        """The first row equal to each of ``more``."""

    def complete(self, keys: np.ndarray) -> np.ndarray:
        """Keys int64 [N, k] of all rows from those [n, k] of ``few``.

        A further copy has the neighbours of the first, which is one itself, at distance 0.
        """
        if not len(self.more):
            return keys
        ranked = np.empty((len(self.few) + len(self.more), keys.shape[1]), np.int64)
        ranked[self.few] = keys
        for row, like in zip(self.more.tolist(), self.like.tolist(), strict=True):
            ranked[row] = np.sort(np.append(ranked[like], like))[: keys.shape[1]]
        return ranked


class _Search:
    """Tiles of rows in an order that puts near ones together, and what is known of each."""

    def __init__(
        self, x: Any, rows: np.ndarray, k: int, metric: Metric, device: str, tile: int
    ) -> None:
        self.x, self.metric, self.device, self.tile = x, metric, device, tile
        self.order = rows
        self._measure()
        exact, half = Screen(torch.float64), Screen(half_type(device))
        small = len(rows) * self.sample.shape[1] < _SMALL
        self.screens = [exact] if small else [half, exact]
        self.held: list[Vectors] = []
        worth = self.scale**2 * (2 if metric == "cosine" else 1)
        starts = range(0, len(rows), tile)
        self.near = [Near(first, min(tile, len(rows) - first), k, worth) for first in starts]
        if len(self.near) > 1:
            self.order = rows[self._together()]

    def prepare(self) -> None:
        """After a look at the tiles themselves: a coarse screen where it saves much, its vectors
        held.
        """
        if len(self.order) >= _COARSE_ROWS and len(self.screens) > 1:
            basis = principal(self.sample)
            places = np.unique(np.linspace(0, len(self.near) - 1, 8).astype(int)).tolist()
            some, reach = zip(*map(self._near_some, places), strict=True)
            if width := coarse_width(torch.cat(some), np.concatenate(reach), basis):
                coarse = Screen(self.screens[0].kind, basis[:, :width].contiguous())
                self.screens.insert(0, coarse)
        kind, width = self.screens[0].kind, self.sample.shape[1]
        if self.screens[0].basis is not None:
            width = self.screens[0].basis.shape[1]
        if len(self.screens) > 1 and len(self.order) * width * kind.itemsize <= _HELD_BYTES:
            tiles = range(len(self.near))
            self.held = map_threads(lambda i: self._made(self.screens[0], i), tiles)

    def _near_some(self, tile: int) -> tuple[torch.Tensor, np.ndarray]:
        """Some rows of a tile and how far their neighbours may be."""
        some = slice(0, len(self.near[tile].reach), 8)
        return self._tile(tile)[0][some], self.near[tile].reach[some]

    def compare(self, one: int, others: Sequence[int]) -> None:
        """The rows of tile ``one`` with those of ``others``."""
        mine: dict[int, tuple[Vectors, torch.Tensor]] = {}
        out = [
            torch.empty(self.tile, self.tile, dtype=screen.kind, device=self.device)
            for screen in self.screens
        ]
        for other in others:
            for level in range(len(self.screens)):
                if level not in mine:
                    vectors = self._vectors(level, one)
                    mine[level] = vectors, vectors.left()
                a, left = mine[level]
                b = a if one == other else self._vectors(level, other)
                product = torch.mm(left, b.right.T, out=out[level])
                if one == other:
                    product.fill_diagonal_(torch.inf)
                if self._look(level, a, b, one, other, product):
                    break

    def settle(self, tile: int) -> None:
        """Measure what waits of a tile."""
        self.near[tile].settle(self._exact, now=True)

    def keys(self) -> np.ndarray:
        """Keys int64 [n, k] of all rows that are compared, in their own order."""
        return np.concatenate([near.keys for near in self.near])[np.argsort(self.order)]

    def _look(
        self, level: int, a: Vectors, b: Vectors, one: int, other: int, product: torch.Tensor
    ) -> bool:
        """Take in the pairs that may be neighbours; False if a finer screen should look first."""
        screen, last = self.screens[level], level == len(self.screens) - 1
        sides = [(self.near[one], self.near[other], a, b, False)]
        if one != other:
            sides.append((self.near[other], self.near[one], b, a, True))
        with ExitStack() as stack:
            for near, *_ in sides:
                stack.enter_context(near.lock)
            found, most = [], _FEW if screen.basis is not None else 8 * near.k * self.tile
            for near, there, of, to, columns in sides:
                reach = self._reach(screen, of, to, near, product.T if columns else product)
                limits = self._limits(screen, of, to, reach)
                row, column = at_most(product, limits, columns=columns)
                if screen.basis is not None and len(row) > most:
                    return False
                half = product[torch.from_numpy(row), torch.from_numpy(column)].float()
                mine, theirs = (column, row) if columns else (row, column)
                low, high = screen.bounds(of, to, mine, theirs, half.cpu().numpy())
                pairs = RowPairs(mine, there.first + theirs, low, high)
                tight = near.tightened(pairs)
                reach = near.reach.copy()
                reach[tight[0]] = tight[2]
                pairs = pairs.some(low <= reach[mine])
                if not last and len(pairs.row) > most:
                    return False
                found.append((near, pairs, tight))
            for near, pairs, tight in found:
                near.take(pairs, tight)
                near.settle(self._exact)
        return True

    def _reach(
        self, screen: Screen, of: Vectors, to: Vectors, near: Near, product: torch.Tensor
    ) -> np.ndarray:
        """How far the neighbours of a tile may be, float32 [n]: at first by ``product`` itself."""
        k, n = near.k, len(near.reach)
        if screen.basis is not None or k > self.tile or np.isfinite(near.reach).any():
            return near.reach
        half = product[:n].float().kthvalue(k, dim=1).values.cpu().numpy()
        farthest = np.full(n, int(to.lost.argmax()))
        _, high = screen.bounds(of, to, np.arange(n), farthest, half)
        assert high is not None  # only a coarse screen has none
        return np.where(half < OUTSIDE / 4, high, np.float32(np.inf)).astype(np.float32)

    def _limits(self, screen: Screen, of: Vectors, to: Vectors, reach: np.ndarray) -> torch.Tensor:
        """Limits of a whole tile; behind the last row nothing is near."""
        whole = np.zeros(self.tile, np.float32)
        whole[: len(reach)] = reach
        limits = screen.limits(of, to, whole)
        limits[len(reach) :] = -torch.inf
        return limits

    def _exact(self, place: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Keys of pairs of places."""
        left, right = self.order[place], self.order[other]
        used, at = np.unique(np.concatenate([left, right]), return_inverse=True)
        rows = torch.from_numpy(np.ascontiguousarray(self.x[used])).float().numpy()
        apart = pair_distances(rows, at[: len(left)], at[len(left) :], self.metric)
        return apart.view(np.int32).astype(np.int64) << 32 | right

    # --- the rows ---------------------------------------------------------------------------

    def _measure(self) -> None:
        """A common point and a scale from some rows and the longest of all."""
        step = max(1, len(self.order) // _SAMPLE)
        self.sample = self._unit(np.sort(self.order)[::step][:_SAMPLE])
        self.centre = self.sample.median(0).values
        longest = 1.0
        if self.metric == "sqeuclidean":
            longest = max(map_threads(self._longest, range(0, len(self.order), TILE)))
        self.scale = 2.0 ** -np.ceil(np.log2(2 * longest)) if longest else 1.0
        self.sample = (self.sample - self.centre) * self.scale

    def _longest(self, start: int) -> float:
        return float(self._unit(self.order[start : start + TILE]).norm(dim=1).max())

    def _unit(self, rows: np.ndarray) -> torch.Tensor:
        """Rows as float64, of unit length under ``cosine``."""
        found = LazyRows(self.x, rows)[:]
        x = torch.from_numpy(found).to(self.device).float().double()
        return x / x.norm(dim=1, keepdim=True) if self.metric == "cosine" else x

    def _tile(self, i: int) -> tuple[torch.Tensor, int]:
        """Tile ``i`` as float64, moved and scaled, zeros behind the last row; how many it has."""
        rows = self._unit(self.order[i * self.tile : (i + 1) * self.tile])
        moved = rows.sub_(self.centre).mul_(self.scale)
        if len(rows) == self.tile:
            return moved, len(rows)
        whole = moved.new_zeros(self.tile, moved.shape[1])
        whole[: len(moved)] = moved
        return whole, len(moved)

    def _vectors(self, level: int, tile: int) -> Vectors:
        if level == 0 and self.held:
            return self.held[tile]
        return self._made(self.screens[level], tile)

    def _made(self, screen: Screen, tile: int) -> Vectors:
        return screen.vectors(*self._tile(tile))

    def _together(self) -> np.ndarray:
        """Places of all rows, in the order of the nearest of some of them."""
        screen = self.screens[0]
        count = min(len(self.sample), max(1, int(len(self.order) ** 0.5)))
        some = self.sample.new_zeros(self.tile, self.sample.shape[1])
        some[: min(count, self.tile)] = self.sample[: min(count, self.tile)]
        left = screen.vectors(some, min(count, self.tile)).left()

        def nearest(tile: int) -> np.ndarray:
            rows, n = self._tile(tile)
            product = left @ screen.vectors(rows, n).right.T
            return np.asarray(product[:, :n].float().argmin(0).cpu().numpy())

        found = np.concatenate(map_threads(nearest, range(len(self.near))))
        return np.argsort(found, kind="stable")
