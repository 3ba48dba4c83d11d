"""Sums of unit rows in fixed point: exact, so the order of addition does not matter.

A number is cut to a multiple of 2⁻⁴⁰. float64 adds up to 2¹³ such numbers without rounding, and
faster than int64, so the rows are added there and their sums to the integers.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch

from coincide.ops.kmeans.units import BufferPool, row_blocks
from coincide.ops.threads import map_threads

UNIT = 2.0**40
"""Fixed-point scale of centroid sums: int64 holds 8 million unit rows."""
_EXACT = 8000
"""Terms of at most 2⁴⁰ (and a little) that float64 adds exactly."""
_COLUMNS = 128
"""Columns that a thread adds at least."""
_FEW = 2**18
"""Fewer numbers than this are added on one thread."""


def add_rows(
    sums: torch.Tensor,
    unit: torch.Tensor,
    places: np.ndarray,
    after: np.ndarray,
    before: np.ndarray,
    buffers: BufferPool,
) -> None:
    """Move rows between clusters, in ``sums`` int64 [K, D]; columns on the threads of ``buffers``.

    The rows are ``unit[places]`` (float32 [n, D]); they are added to the clusters ``after`` and
    subtracted from the clusters ``before`` (int64 [p]; -1: from none).
    """
    both = np.stack([after, before])
    used = np.zeros(len(sums) + 1, bool)
    used[both] = True  # -1 is the last place
    clusters = np.flatnonzero(np.roll(used, 1)) - 1
    number = np.empty(len(used), np.int64)
    number[clusters] = np.arange(len(clusters))
    term = number[both]
    for start, stop in _exact(term, len(clusters)):
        mine = slice(start, stop)
        known = before[mine] >= 0
        _add(sums, unit, places[mine], clusters, term[:, mine], known, buffers)


def _exact(term: np.ndarray, clusters: int) -> list[tuple[int, int]]:
    """Cut p rows with terms [2, p] so that no cluster has more terms than float64 adds exactly."""
    if np.bincount(term.ravel(), minlength=clusters).max() <= _EXACT:
        return [(0, term.shape[1])]
    step = _EXACT // 2
    return [(start, start + step) for start in range(0, term.shape[1], step)]


def _add(
    sums: torch.Tensor,
    unit: torch.Tensor,
    places: np.ndarray,
    clusters: np.ndarray,
    term: np.ndarray,
    known: np.ndarray,
    buffers: BufferPool,
) -> None:
    device, width = sums.device, sums.shape[1]
    place, into, out_of = (
        torch.from_numpy(part).to(device) for part in (places, term[0], term[1][known])
    )
    leaves = torch.from_numpy(np.flatnonzero(known)).to(device)
    first = int(clusters[0] < 0)  # the term of rows that had no cluster
    target = torch.from_numpy(clusters[first:]).to(device)

    def columns(task: tuple[slice, BufferPool]) -> None:
        some, pool = task
        wide = some.stop - some.start
        part = pool.get("part", (len(clusters), wide), torch.float64).zero_()
        for piece in row_blocks(len(place), device, wide):
            shape = (len(place[piece]), wide)
            taken = pool.get("taken", shape, torch.float32)
            torch.index_select(unit[:, some], 0, place[piece], out=taken)
            fixed = pool.get("fixed", shape, torch.float64)
            fixed.copy_(taken.mul_(UNIT).trunc_())
            part.index_add_(0, into[piece], fixed)
            low, high = np.searchsorted(leaves, [piece.start, piece.stop])
            if high > low:
                gone = fixed
                if high - low < len(fixed):
                    gone = fixed.index_select(0, leaves[low:high] - piece.start)
                part.index_add_(0, out_of[low:high], gone, alpha=-1)
        sums[:, some].index_add_(0, target, part[first:].long())

    few = len(place) * width < _FEW
    count = 1 if few else min(buffers.threads, max(width // _COLUMNS, 1))
    edges = [width * i // count for i in range(count + 1)]
    parts = [slice(a, b) for a, b in pairwise(edges)]
    map_threads(columns, list(zip(parts, buffers.several(count), strict=True)), count)
