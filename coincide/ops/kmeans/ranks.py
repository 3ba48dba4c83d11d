"""Ranks that share the rows of one clustering through torch.distributed, if there are any.

Every rank holds a range of whole tiles and calls the same functions. What they exchange is summed
in integers, or has one non-zero term, so the result is the same for every number of ranks.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist

from coincide.ops.arrays import TILE


def ranks() -> tuple[int, int]:
    """This process' rank and how many there are; (0, 1) outside torch.distributed."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def share_of_rows(rows: int) -> tuple[int, int]:
    """The range ``[first, last)`` of this rank: whole tiles, about as many for each rank."""
    rank, count = ranks()
    tiles = -(-rows // TILE)
    edges = [min(tiles * r // count * TILE, rows) for r in (rank, rank + 1)]
    return edges[0], edges[1]


def total(mine: torch.Tensor) -> torch.Tensor:
    """The sum over ranks: ``mine`` itself where there is one."""
    if ranks()[1] == 1:
        return mine
    summed = mine.clone()
    dist.all_reduce(summed)
    return summed


def all_rows(mine: np.ndarray, rows: int, device: str) -> np.ndarray:
    """The array [rows] of which every rank holds its share."""
    if ranks()[1] == 1:
        return mine
    first, last = share_of_rows(rows)
    kind = np.dtype(np.int64) if mine.dtype.kind in "iu" else mine.dtype
    whole = np.zeros(rows, kind)
    whole[first:last] = mine.view(np.int64) if mine.dtype == np.uint64 else mine
    summed = total(torch.from_numpy(whole).to(device)).cpu().numpy()
    return summed.view(np.uint64) if mine.dtype == np.uint64 else summed.astype(mine.dtype)
