"""Reading rows in tiles of one fixed shape, so that no answer depends on how much is read at once.

A matrix product may round differently when its shape changes. Tiles start at multiples of ``TILE``
rows and the last one is padded with zeros: every product then has the same shape and the same
rows, whatever ``chunk_rows`` says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

TILE = 1024
"""Rows per tile. Part of the arithmetic: another value may round differently."""


def as_float64(x: np.ndarray) -> np.ndarray:
    """``x`` up-cast to float64 through torch, which converts fp16 fifty times faster than numpy."""
    if x.dtype == np.float64:
        return np.asarray(x)
    import torch

    return torch.from_numpy(np.array(x)).double().numpy()


def tiles(
    x: np.ndarray, chunk_rows: int | None = None, device: str = "cpu", tile: int = TILE
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield ``(first row, float32 [tile, D])`` over ``x`` [N, D], the last tile zero-padded.

    ``chunk_rows`` rows (rounded up to whole tiles) are read at once; ``x`` may be a memmap.
    """
    import torch

    whole = -(-max(chunk_rows or 8 * tile, 1) // tile) * tile
    for start in range(0, len(x), whole):
        chunk = torch.from_numpy(np.array(x[start : start + whole])).to(device)
        for offset in range(0, len(chunk), tile):
            part = chunk[offset : offset + tile].float()
            if len(part) < tile:
                part = torch.cat([part, part.new_zeros(tile - len(part), part.shape[1])])
            yield start + offset, part


def require_finite_rows(
    x: np.ndarray, *, zero_allowed: bool = True, chunk_rows: int | None = None
) -> None:
    """Refuse rows that hold NaN or Inf and, unless allowed, rows of zeros.

    Raises:
        ValueError: naming the number of such rows and the first ten.
    """
    if x.ndim != 2:
        raise ValueError(f"got an array of shape {x.shape}; expected [rows, features]")
    invalid, zero = [], []
    for start, tile in tiles(x, chunk_rows):
        part = tile[: len(x) - start]
        invalid += (start + (~part.isfinite().all(1)).nonzero()[:, 0]).tolist()
        zero += (start + (part == 0).all(1).nonzero()[:, 0]).tolist()
    _refuse(invalid, len(x), "hold NaN or Inf")
    if not zero_allowed:
        _refuse(zero, len(x), "are all zeros and have no direction")


def row_digests(x: np.ndarray, chunk_rows: int | None = None) -> np.ndarray:
    """A 64-bit digest of the bytes of every row: uint64 [N], equal where rows are equal."""
    digests = np.empty(len(x), np.uint64)
    step = chunk_rows or 8 * TILE
    for start in range(0, len(x), step):
        for row, values in enumerate(np.ascontiguousarray(x[start : start + step]), start):
            digests[row] = int.from_bytes(hashlib.blake2b(values, digest_size=8).digest(), "big")
    return digests


def _refuse(rows: list[int], total: int, fault: str) -> None:
    if rows:
        raise ValueError(
            f"{len(rows)} of {total} rows {fault}: rows {rows[:10]}"
            f"{' ...' if len(rows) > 10 else ''}. Expected finite, non-zero features; "
            "leave these rows out (mark them not usable) or recompute their features."
        )
