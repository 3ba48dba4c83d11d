"""Ranks of torch.distributed that share the rows of one clustering, if it is initialised.

Every rank holds a range of whole tiles and calls the same functions. What they exchange is summed
as integers, or has a single non-zero term, so the result is the same for every number of ranks.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist

from coincide.ops.arrays import TILE


def ranks() -> tuple[int, int]:
    """``(rank, number of ranks)`` of this process; (0, 1) without torch.distributed."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def share_of_rows(rows: int) -> tuple[int, int]:
    """The range ``[first, last)`` of rows of this rank: whole tiles, about equally many for each
    rank.
    """
    rank, count = ranks()
    tiles = -(-rows // TILE)
    edges = [min(tiles * r // count * TILE, rows) for r in (rank, rank + 1)]
    return edges[0], edges[1]


def total(mine: torch.Tensor) -> torch.Tensor:
    """``mine`` summed over all ranks; with one rank ``mine`` itself."""
    if ranks()[1] == 1:
        return mine
    summed = mine.clone()
    dist.all_reduce(summed)
    return summed


def all_rows(mine: np.ndarray, rows: int, device: str) -> np.ndarray:
    """The whole array [rows], put together from the share ``mine`` of every rank."""
    if ranks()[1] == 1:
        return mine
    first, last = share_of_rows(rows)
    kind = np.dtype(np.int64) if mine.dtype.kind in "iu" else mine.dtype
    whole = np.zeros(rows, kind)
    whole[first:last] = mine.view(np.int64) if mine.dtype == np.uint64 else mine
    summed = total(torch.from_numpy(whole).to(device)).cpu().numpy()
    return summed.view(np.uint64) if mine.dtype == np.uint64 else summed.astype(mine.dtype)
