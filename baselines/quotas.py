"""Distribute a number of rows over groups: by largest remainder, at most what a group has."""

from __future__ import annotations

import numpy as np

from coincide.ops.allocate import largest_remainder


def apportion(weights: np.ndarray, room: np.ndarray, total: int) -> np.ndarray:
    """Rows of each group, int64 [G], in proportion to ``weights`` [G] (>= 0), at most ``room`` [G].

    They sum to ``total``, or to ``room.sum()`` if that is less. What a full group cannot take is
    distributed over the others in proportion; groups of weight 0 come last, in proportion to their
    room. Fractions by largest remainder, ties to the lowest group.
    """
    weights, room = np.asarray(weights, np.float64), np.asarray(room, np.int64)
    if weights.shape != room.shape or (weights < 0).any() or not np.isfinite(weights).all():
        raise ValueError(f"got weights {weights.tolist()[:10]}; expected one >= 0 for each group")
    counts = _fill(weights, np.where(weights > 0, room, 0), total)
    left = min(total, int(room.sum())) - int(counts.sum())
    return counts + _fill(room - counts, room - counts, left) if left > 0 else counts


def _fill(weights: np.ndarray, room: np.ndarray, total: int) -> np.ndarray:
    counts = np.zeros(len(room), np.int64)
    open_ = np.flatnonzero(room)
    left = min(total, int(room.sum()))
    while left:
        share = left * (weights[open_] / weights[open_].sum())
        full = share >= room[open_]
        if not full.any():
            counts[open_] = largest_remainder(share, left)
            return counts
        counts[open_[full]] = room[open_[full]]
        left -= int(room[open_[full]].sum())
        open_ = open_[~full]
    return counts
