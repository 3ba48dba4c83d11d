"""Sums of unit rows in fixed point: exact, so the order of addition does not matter.

A number is cut to a multiple of 2⁻⁴⁰. float64 adds up to 2¹³ such numbers without rounding, and
faster than int64, so the rows are added there and their sums to the integers.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch

from coincide.ops.kmeans.units import row_blocks
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
    threads: int = 1,
) -> None:
    """Move rows between clusters, in ``sums`` int64 [K, D], columns on ``threads`` threads.

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
        _add(sums, unit, places[mine], clusters, term[:, mine], known, threads)


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
    threads: int,
) -> None:
    device, width = sums.device, sums.shape[1]
    place, into, out_of = (
        torch.from_numpy(part).to(device) for part in (places, term[0], term[1][known])
    )
    leaves = torch.from_numpy(np.flatnonzero(known)).to(device)
    first = int(clusters[0] < 0)  # the term of rows that had no cluster
    target = torch.from_numpy(clusters[first:]).to(device)

    def columns(some: slice) -> None:
        part = torch.zeros(
            (len(clusters), len(range(*some.indices(width)))), dtype=torch.float64, device=device
        )
        for piece in row_blocks(len(place), device, width):
            fixed = unit[:, some].index_select(0, place[piece]).mul_(UNIT).trunc_().double()
            part.index_add_(0, into[piece], fixed)
            low, high = np.searchsorted(leaves, [piece.start, piece.stop])
            if high > low:
                gone = fixed.index_select(0, leaves[low:high] - piece.start)
                part.index_add_(0, out_of[low:high], gone, alpha=-1)
        sums[:, some].index_add_(0, target, part[first:].long())

    few = len(place) * width < _FEW
    count = 1 if few else min(threads, max(width // _COLUMNS, 1))
    edges = [width * i // count for i in range(count + 1)]
    map_threads(columns, [slice(a, b) for a, b in pairwise(edges)], count)
