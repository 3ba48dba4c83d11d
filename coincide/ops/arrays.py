"""Reading rows in tiles of one fixed shape, so that results do not depend on the block size.

A matrix product may round differently when its shape changes. Tiles start at multiples of ``TILE``
rows and the last one is padded with zeros: every product then has the same shape and the same rows,
whatever ``chunk_rows`` is.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    import torch

TILE = 1024
"""Rows per tile. Part of the arithmetic: another value may round differently."""
_IN_CACHE = 128
"""Rows whose float32 copy stays in the cache."""
BLOCK_BYTES = 2**26
"""Bytes (as float32) that are read at once where no number of rows is given."""


def block_rows(x: np.ndarray, chunk_rows: int | None, tile: int = TILE) -> int:
    """Rows to read at once: ``chunk_rows`` rounded up to whole tiles.

    Without ``chunk_rows`` as many as fit into ``BLOCK_BYTES`` as float32, but at least one tile.
    """
    asked = chunk_rows or BLOCK_BYTES // (4 * x.shape[1] or 1)
    return max(asked + (tile - 1 if chunk_rows else 0), tile) // tile * tile


@runtime_checkable
class Releasable(Protocol):
    """An array over several files that gives the pages of its memory maps back itself."""

    def release(self) -> None: ...


def read_rows(x: np.ndarray, start: int, stop: int) -> np.ndarray:
    """A copy of rows ``start`` to ``stop`` of ``x``, in its dtype.

    The pages of a memory map are released afterwards, so that the process does not grow.
    """
    rows = x[start:stop]
    if isinstance(x, np.ndarray):  # of others a slice is a copy
        rows = np.array(rows)
    release_pages(x)
    return rows


def release_pages(x: np.ndarray) -> None:
    """Give the resident pages of a memory-mapped ``x`` back to the operating system."""
    if isinstance(x, Releasable):
        x.release()
    elif isinstance(x, np.memmap) and x.mode != "c":  # else its changes are in memory alone
        pages = x._mmap  # type: ignore[attr-defined]
        if isinstance(pages, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            pages.madvise(mmap.MADV_DONTNEED)


def tiles(
    x: np.ndarray,
    chunk_rows: int | None = None,
    device: str = "cpu",
    tile: int = TILE,
    first: int = 0,
    last: int | None = None,
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield ``(first row, float32 [tile, D])`` over ``x`` [N, D], the last tile padded with zeros.

    ``chunk_rows`` rows (rounded up to whole tiles) are read at once; ``x`` may be a memmap.
    ``first`` (a multiple of ``tile``) and ``last`` limit the rows.
    """
    import torch

    whole = block_rows(x, chunk_rows, tile)
    end = len(x) if last is None else last
    for start in range(first, end, whole):
        chunk = torch.from_numpy(read_rows(x, start, min(start + whole, end))).to(device)
        for offset in range(0, len(chunk), tile):
            part = chunk[offset : offset + tile].float()
            if len(part) < tile:
                part = torch.cat([part, part.new_zeros(tile - len(part), part.shape[1])])
            yield start + offset, part


def require_finite_rows(
    x: np.ndarray, *, zero_allowed: bool = True, chunk_rows: int | None = None
) -> None:
    """Raise unless every row of ``x`` [N, D] is finite and, with ``zero_allowed=False``, not all
    zeros.

    Raises:
        ValueError: naming the number of such rows and the first ten.
    """
    refuse_faults(row_faults(x, chunk_rows), zero_allowed=zero_allowed)


def row_faults(
    x: np.ndarray, chunk_rows: int | None = None, first: int = 0, last: int | None = None
) -> np.ndarray:
    """What is wrong with each row, int8 [N]: 1 NaN or Inf, 2 all zeros, 0 nothing.

    Raises:
        ValueError: ``x`` is not a matrix.
    """
    if x.ndim != 2:
        raise ValueError(f"got an array of shape {x.shape}; expected [rows, features]")
    end = len(x) if last is None else last
    faults = np.zeros(end - first, np.int8)
    step = block_rows(x, chunk_rows)
    for start in range(first, end, step):
        block = read_rows(x, start, min(start + step, end))
        for offset in range(0, len(block), _IN_CACHE):
            part = np.ascontiguousarray(block[offset : offset + _IN_CACHE])
            if part.dtype not in (np.float16, np.float32):
                with np.errstate(over="ignore"):
                    part = part.astype(np.float32)
            # the bits of floats without their sign are in the order of the absolute values
            infinity = np.full(1, np.inf, part.dtype).view(f"u{part.itemsize}")[0]
            largest = (part.view(infinity.dtype) << 1).max(1, initial=0) >> 1
            found = faults[start - first + offset :][: len(part)]
            found[largest == 0] = 2
            found[largest >= infinity] = 1
    return faults


def refuse_faults(faults: np.ndarray, *, zero_allowed: bool = True) -> None:
    """Raise ValueError for the rows that :func:`row_faults` found."""
    _refuse(np.flatnonzero(faults == 1).tolist(), len(faults), "hold NaN or Inf")
    if not zero_allowed:
        _refuse(
            np.flatnonzero(faults == 2).tolist(),
            len(faults),
            "are all zeros and have no direction",
        )


def row_digests(
    x: np.ndarray, chunk_rows: int | None = None, first: int = 0, last: int | None = None
) -> np.ndarray:
    """A 64-bit hash of the bytes of every row: uint64 [N], equal where rows are equal."""
    end = len(x) if last is None else last
    digests = np.empty(end - first, np.uint64)
    step = chunk_rows or block_rows(x, None)
    for start in range(first, end, step):
        block = np.ascontiguousarray(read_rows(x, start, min(start + step, end)))
        for row, values in enumerate(block, start - first):
            digests[row] = int.from_bytes(hashlib.blake2b(values, digest_size=8).digest(), "big")
    return digests


def row_sums(
    x: np.ndarray, chunk_rows: int | None = None, first: int = 0, last: int | None = None
) -> np.ndarray:
    """A weighted sum of the words of every row: uint64 [N], equal where rows are equal.

    Rows of unlike sums are unlike. Of like sums they may be unlike too: :func:`row_digests` tells.
    It takes a tenth of the time of the digests.
    """
    end = len(x) if last is None else last
    sums = np.empty(end - first, np.uint64)
    step = chunk_rows or block_rows(x, None)
    width = x.shape[1] * x.dtype.itemsize
    word = np.dtype(f"u{max(size for size in (1, 2, 4, 8) if width % size == 0)}")
    weights = np.random.default_rng(0).integers(2**64, size=width // word.itemsize, dtype=np.uint64)
    for start in range(first, end, step):
        block = np.ascontiguousarray(read_rows(x, start, min(start + step, end)))
        for offset in range(0, len(block), _IN_CACHE):
            words = block[offset : offset + _IN_CACHE].view(word).astype(np.uint64, copy=False)
            sums[start - first + offset :][: len(words)] = words @ (weights | np.uint64(1))
    return sums


def _refuse(rows: list[int], total: int, fault: str) -> None:
    if rows:
        raise ValueError(
            f"{len(rows)} of {total} rows {fault}: rows {rows[:10]}"
            f"{' ...' if len(rows) > 10 else ''}. Expected finite, non-zero features; "
            "leave these rows out (mark them not usable) or recompute their features."
        )
