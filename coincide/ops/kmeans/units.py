"""Unit rows and the plain product of spherical k-means, in reused buffers.

A freshly allocated page costs more than the computation that fills it (ten times for normalising a
tile). So results go into buffers that are kept, and intermediate ones fit the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
import torch

from coincide.ops.arrays import TILE

_PIECE = 128
"""Rows of an intermediate result on a CPU, at least."""
_NUMBERS = 2**17
"""Numbers of an intermediate result on a CPU, about, where that is more."""


def rounding(width: int) -> float:
    """Bound on the error of a float32 product of unit vectors of ``width``, and of their lengths.

    Higham and Mary 2019, "A new approach to probabilistic rounding error analysis": at most
    10 √D units in the last place but for a chance of 1e-18, where the certain bound is D; 32 more
    for the lengths and for sums in a tree.
    """
    return (min(width, 10 * width**0.5) + 32) * 2.0**-24


def half_type(device: torch.device) -> torch.dtype:
    """The type of the first, inexact products: the fastest that ``device`` multiplies."""
    if device.type == "cuda":
        return torch.float16
    if getattr(torch.cpu, "_is_avx512_bf16_supported", bool)():  # else slower than float32
        return torch.bfloat16
    return torch.float32


class BufferPool:
    """Named buffers on one device, enlarged when needed, and for how many threads they are."""

    def __init__(self, device: torch.device, threads: int = 1) -> None:
        self.device = device
        self.threads = threads if device.type == "cpu" else 1
        self._kept: dict[str, torch.Tensor] = {}
        self._others: list[BufferPool] = []

    def get(self, name: str, shape: tuple[int, ...], kind: torch.dtype) -> torch.Tensor:
        """The buffer ``name`` in this shape and dtype.

        Its content is whatever was written to it last.
        """
        size = prod(shape)
        kept = self._kept.get(name)
        if kept is None or len(kept) < size or kept.dtype != kind:
            kept = self._kept[name] = torch.empty(size, dtype=kind, device=self.device)
        return kept[:size].view(shape)

    def several(self, count: int) -> list[BufferPool]:
        """``count`` pools for as many threads, of which this is the first."""
        while len(self._others) < count - 1:
            self._others.append(BufferPool(self.device))
        return [self, *self._others[: count - 1]]


def row_blocks(rows: int, device: Any, width: int) -> Iterator[slice]:
    """Slices that cut ``rows`` rows of ``width`` numbers into the blocks in which intermediate
    results are computed.
    """
    step = TILE
    if torch.device(device).type == "cpu":
        step = min(max(_NUMBERS // (width or 1) // _PIECE * _PIECE, _PIECE), TILE)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def plain_nearest(
    unit: torch.Tensor, centroids: torch.Tensor, *, cosines: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine float32 [n] and index int64 [n] of the nearest centroid. This defines the assignment.

    ``unit`` float32 [n, D] and ``centroids`` float32 [K, D] of unit norm. Rows are multiplied in
    tiles of one shape, the last one padded with zeros; ties go to the lowest index. Without
    ``cosines`` those are empty.
    """
    cosine, nearest = [], []
    for start in range(0, len(unit), TILE):
        part = unit[start : start + TILE]
        if len(part) < TILE:
            part = torch.cat([part, part.new_zeros(TILE - len(part), part.shape[1])])
        products = part @ centroids.T
        index = _largest(products)[: len(unit) - start]
        nearest.append(index)
        if cosines:
            cosine.append(products[torch.arange(len(index), device=index.device), index])
        else:
            cosine.append(products[:0, 0])
    return torch.cat(cosine), torch.cat(nearest)


def _largest(products: torch.Tensor) -> torch.Tensor:
    """The first place of the largest value of every row; on a CPU numpy is faster."""
    if products.device.type != "cpu":
        return products.max(1)[1]
    return torch.from_numpy(products.numpy().argmax(1))


def gathered_nearest(unit: torch.Tensor, at: np.ndarray, centroids: torch.Tensor) -> torch.Tensor:
    """Index int64 [n] of the nearest centroid, as :func:`plain_nearest`, for scattered rows.

    ``at`` are the rows' indices in the dataset.
    """
    nearest = torch.empty(len(at), dtype=torch.int64, device=unit.device)
    tile = unit.new_zeros(TILE, unit.shape[1])
    for some, places in _into_tiles(at, keep_places=unit.device.type == "cuda"):
        mine, there = (torch.from_numpy(part).to(unit.device) for part in (some, places))
        tile[there] = unit[mine]
        nearest[mine] = plain_nearest(tile, centroids)[1][there]
    return nearest


def _into_tiles(at: np.ndarray, *, keep_places: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Which rows go into each tile, and where; to their own places, or one beside the other.

    A GPU may split the sums of a product otherwise in another part of it, so there a row keeps its
    place in the tile; what rows are beside it does not matter.
    """
    every = np.arange(len(at))
    place = at % TILE if keep_places else every % TILE
    order = np.argsort(place, kind="stable")
    again = np.empty(len(at), np.int64)  # how many rows before it have a row's place
    again[order] = every - np.searchsorted(place[order], place[order])
    for turn in range(int(again.max(initial=-1)) + 1):
        some = np.flatnonzero(again == turn)
        yield some, place[some]


def row_cosines(
    unit: torch.Tensor,
    row: torch.Tensor,
    centroids: torch.Tensor,
    centroid: torch.Tensor,
    buffers: BufferPool,
) -> torch.Tensor:
    """Cosine float32 [p] between ``unit[row]`` and ``centroids[centroid]`` for p pairs."""
    cosine = torch.empty(len(row), device=unit.device)
    for piece in row_blocks(len(row), unit.device, unit.shape[1]):
        shape = (len(row[piece]), unit.shape[1])
        product = buffers.get("pair_rows", shape, torch.float32)
        other = buffers.get("pair_centroids", shape, torch.float32)
        torch.index_select(unit, 0, row[piece], out=product)
        torch.index_select(centroids, 0, centroid[piece], out=other)
        torch.sum(product.mul_(other), 1, out=cosine[piece])
    return cosine


def angles_between(before: torch.Tensor, after: torch.Tensor) -> np.ndarray:
    """Angle float64 [K] in radians between row i of two matrices of unit rows, rounded up.

    0 where the rows are equal.
    """
    chord = torch.empty(len(before), device=before.device)
    for piece in row_blocks(len(before), before.device, before.shape[1]):
        chord[piece] = torch.linalg.vector_norm(after[piece] - before[piece], dim=1)
    # float32 rounds a difference by its own last bit, and the sum of its squares by a few
    angle = 2 * torch.arcsin((chord.double() * (0.5 + 1e-5)).clamp(max=1)) + 1e-6
    return torch.where(chord > 0, angle, 0.0).cpu().numpy()


def unit_means(sums: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
    """Centroids float32 [K, D]: the normalised sums; the previous centroid where a sum is zero."""
    means = torch.empty_like(previous)
    for piece in row_blocks(len(sums), sums.device, sums.shape[1]):
        mean = sums[piece].double()
        length = torch.linalg.vector_norm(mean, dim=1, keepdim=True)
        means[piece] = torch.where(length > 0, mean.div_(length.clamp(min=1)), previous[piece])
    return means
