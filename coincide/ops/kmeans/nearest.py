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

from dataclasses import dataclass, field

import numpy as np
import torch

from coincide.ops.arrays import TILE
from coincide.ops.kmeans.blocks import Block, UnitReader
from coincide.ops.kmeans.rows import RowBounds
from coincide.ops.kmeans.search import Search
from coincide.ops.kmeans.sums import add_rows
from coincide.ops.kmeans.units import BufferPool, gathered_nearest, plain_nearest
from coincide.ops.threads import map_threads

_SMALL = 2**13
"""With fewer numbers in the centroids than this, plain products are faster than the bounds."""


def assign(
    reader: UnitReader, centroids: torch.Tensor, moved: np.ndarray, sums: torch.Tensor
) -> int:
    """Assign every row to its nearest centroid: updates the rows and ``sums`` in place.

    ``centroids`` float32 [K, D]; ``moved`` float64 [K], the angle in radians between each centroid
    and the one of the previous iteration, to which the bounds of the rows refer. ``sums`` int64
    [K, D] are the fixed-point sums of each cluster's unit rows and change with the rows that change
    cluster. Returns the number of cosines computed.
    """
    rows = reader.rows
    pending = _Pending(rows, centroids, sums, reader.buffers)
    if reader.plain:
        for block, every in reader.blocks(np.ones(len(rows.nearest), bool)):
            nearest = _plain(block, centroids, reader.buffers.threads)
            pending.change(block.start + every, block.unit, every, nearest)
        return len(rows.nearest) * len(centroids)
    search = Search(rows, centroids, moved, reader.buffers)
    own_moved = moved[rows.nearest]
    rows.near += own_moved
    rows.cosine[own_moved > 0] = np.nan
    active = search.prefix(rows.near, rows.far) > 0
    rows.far[~active] -= search.moves[0]
    for block, some in reader.blocks(active):
        nearest, tied = search.block(block, some)
        certain = some[~tied]
        pending.change(block.start + certain, block.unit, certain, nearest[~tied])
        if tied.any():
            pending.add(block.start + some[tied], block.unit[torch.from_numpy(some[tied])])
    pending.decide(all_of_them=True)
    return search.cosines


def is_small(centroids: torch.Tensor) -> bool:
    """Whether plain products are faster with so few and so narrow centroids."""
    return centroids.numel() < _SMALL


def _plain(block: Block, centroids: torch.Tensor, threads: int) -> np.ndarray:
    """Nearest centroid int64 [n] of the rows of a block, a tile on one thread."""
    unit = block.unit

    def multiply(start: int) -> torch.Tensor:
        return plain_nearest(unit[start : start + TILE], centroids, cosines=False)[1]

    found = map_threads(multiply, range(0, len(unit), TILE), threads)
    return torch.cat(found).cpu().numpy()


@dataclass
class _Pending:
    """Rows that wait until a tile of them is full, and the sums that follow every change."""

    rows: RowBounds
    centroids: torch.Tensor
    sums: torch.Tensor
    buffers: BufferPool
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
        self.change(at[:ready], unit, np.arange(ready), nearest.cpu().numpy())
        self._at, self._unit = [at[ready:]], [unit[ready:]]

    def change(
        self, at: np.ndarray, unit: torch.Tensor, places: np.ndarray, after: np.ndarray
    ) -> None:
        """Rows ``at``, which are ``unit[places]``, belong to the clusters ``after`` from now on."""
        before = self.rows.nearest[at]
        self.rows.nearest[at] = after
        changed = np.flatnonzero(after != before)
        if len(changed):
            moves = places[changed], after[changed], before[changed]
            add_rows(self.sums, unit, *moves, self.buffers)
