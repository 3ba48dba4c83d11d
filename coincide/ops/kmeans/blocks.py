"""Blocks of unit rows in float32 and in half precision: held where they fit, else read every time.

Reading, converting and normalising a row costs as much as its products with a few hundred
centroids, so rows that fit into ``HELD_BYTES`` are kept as they are multiplied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from coincide.ops.arrays import TILE, block_rows, read_rows
from coincide.ops.kmeans.rows import RowBounds
from coincide.ops.kmeans.units import BufferPool, half_type, row_blocks
from coincide.ops.threads import map_threads

HELD_BYTES = 2_500_000_000
"""Rows of at most so many bytes, in float32 and half precision together, are kept in memory."""
_AT_ONCE = 16
"""Tiles that are read before they are normalised."""


@dataclass
class Block:
    """Rows from number ``start`` of a rank's share on."""

    start: int
    unit: torch.Tensor
    """float32 [n, D], unit length."""
    half: torch.Tensor
    """The same in the type of the first products; ``unit`` itself if that is float32."""


@dataclass
class UnitReader:
    """The rows of this rank's share, in blocks."""

    x: np.ndarray
    rows: RowBounds
    buffers: BufferPool
    chunk_rows: int | None = None
    plain: bool = False
    """Whether only plain products are taken: rows are not converted to half precision then."""
    _held: Block | None = field(default=None, init=False)

    def blocks(self, active: np.ndarray) -> Iterator[tuple[Block, np.ndarray]]:
        """The blocks with ``active`` rows (bool [n]), and the indices of those inside each."""
        count = len(self.rows.nearest)
        step = count if self._fits() else block_rows(self.x, self.chunk_rows)
        for start in range(0, count, step or 1):
            some = np.flatnonzero(active[start : start + step])
            if len(some):
                yield self._block(start, min(start + step, count)), some

    def _fits(self) -> bool:
        """Whether the share is held: on a CPU, if it is small enough."""
        half = self._kind()
        bytes_each = 4 if half == torch.float32 else 4 + half.itemsize
        held = len(self.rows.nearest) * self.x.shape[1] * bytes_each <= HELD_BYTES
        return held and self.buffers.device.type == "cpu"

    def _kind(self) -> torch.dtype:
        return torch.float32 if self.plain else half_type(self.buffers.device)

    def _block(self, start: int, stop: int) -> Block:
        block = self._held or self._read(start, stop)
        if self._fits():
            self._held = block
        if not self.plain:
            self._with_centre(block)
        return block

    def _read(self, start: int, stop: int) -> Block:
        """Rows ``start`` to ``stop`` of the share, of which one tile is read at a time."""
        whole = -(-(stop - start) // TILE) * TILE
        shape, kind = (whole, self.x.shape[1]), self._kind()
        unit = self.buffers.get("unit", shape, torch.float32)
        half = self.buffers.get("unit_half", shape, kind) if kind != torch.float32 else unit
        for some in range(0, whole, _AT_ONCE * TILE):
            firsts = range(some, min(some + _AT_ONCE * TILE, whole), TILE)
            read = [(first, self._tile(start + first, stop)) for first in firsts]

            def fill(tile: tuple[int, torch.Tensor]) -> None:
                first, values = tile
                there = slice(first, first + TILE)
                at = slice(start + first, min(start + first + TILE, stop))
                _fill(values, unit[there], half[there], self.rows.lost[at])

            self._on_threads(fill, read)
        return Block(start, unit[: stop - start], half[: stop - start])

    def _tile(self, start: int, stop: int) -> torch.Tensor:
        first = self.rows.first
        rows = read_rows(self.x, first + start, first + min(start + TILE, stop))
        return torch.from_numpy(rows).to(self.buffers.device)

    def _with_centre(self, block: Block) -> None:
        """Products of rows with the centre, where they are not known."""
        base = self.rows.base[block.start : block.start + len(block.unit)]

        def multiply(start: int) -> None:
            some = slice(start, start + TILE)
            if np.isnan(base[some]).any():
                base[some] = (block.unit[some] @ self.rows.centre).cpu().numpy()

        self._on_threads(multiply, range(0, len(base), TILE))

    def _on_threads(self, work: Callable[[Any], None], items: Sequence[Any]) -> None:
        map_threads(work, items, self.buffers.threads)


def _fill(values: torch.Tensor, unit: torch.Tensor, half: torch.Tensor, lost: np.ndarray) -> None:
    """Normalise a tile, padded with zeros, and note what its rows lose in half precision."""
    if len(values) < TILE:
        values = torch.cat([values, values.new_zeros(TILE - len(values), values.shape[1])])
    wide = torch.empty_like(unit[:0])
    # in pieces that fit the cache, straight into the buffer
    for piece in row_blocks(TILE, unit.device, unit.shape[1]):
        if len(wide) != len(unit[piece]):
            wide = torch.empty_like(unit[piece])
        normalize(wide.copy_(values[piece]), out=unit[piece])
        known = lost[piece]
        if half is unit or half.dtype == unit.dtype:
            known[:] = 0
            continue
        half[piece].copy_(unit[piece])
        if np.isnan(known).any():
            off = torch.sub(unit[piece], wide.copy_(half[piece]), out=wide)
            known[:] = torch.linalg.vector_norm(off, dim=1)[: len(known)].cpu().numpy()
