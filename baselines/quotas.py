"""Distribute a number of rows over groups: by largest remainder, at most what a group has."""

from __future__ import annotations

import numpy as np

from coincide.ops.allocate import largest_remainder


def apportion(weights: np.ndarray, room: np.ndarray, total: int) -> np.ndarray:
    """Rows of each group, int64 [G], in proportion to ``weights`` [G] (>= 0), at most ``room`` [G].

    They sum to ``total``, or to ``room.sum()`` if that is less. What a full group cannot take is
    distributed over the others in proportion; groups of weight 0 come last, in proportion to their
    room. Fractions by largest remainder, ties to the lowest group.
    Raises ValueError for a negative weight or a number of weights other than G.
    """
    weights, room = np.asarray(weights, np.float64), np.asarray(room, np.int64)
    if weights.shape != room.shape or (weights < 0).any() or not np.isfinite(weights).all():
        raise ValueError(f"got weights {weights.tolist()[:10]}; expected one >= 0 for each group")
    counts = _fill(weights, np.where(weights > 0, room, 0), total)
    left = min(total, int(room.sum())) - int(counts.sum())
    return counts + _fill(room - counts, room - counts, left) if left > 0 else counts


def rounded_down(weights: np.ndarray, total: int) -> np.ndarray:
    """Rows of each group, int64 [G]: ``weights`` [G] (of sum 1) times ``total``, rounded down, the
    remainder to the group of the largest weight. The rule of PreSel's released code."""
    counts = (np.asarray(weights, np.float64) * total).astype(np.int64)
    counts[int(np.argmax(weights))] += total - int(counts.sum())
    return counts


def proportional_to_room(sizes: np.ndarray, room: np.ndarray, total: int) -> np.ndarray:
    """Rows of each group, int64 [G]: ``total`` in proportion to ``room`` [G], rounded to the even,
    at most ``room``; then one more in the largest groups by ``sizes`` [G], or one less in the
    smallest, once each until the sum is ``total``. What is still missing stays so. The rule of
    PreSel's released code."""
    whole = int(room.sum())
    if not whole:
        return np.zeros(len(room), np.int64)
    counts = np.minimum(np.rint(room / whole * total).astype(np.int64), room)
    missing = total - int(counts.sum())
    if missing > 0:
        able = [g for g in np.argsort(-sizes, kind="stable") if counts[g] < room[g]]
        counts[able[:missing]] += 1
    elif missing < 0:
        able = [g for g in np.argsort(sizes, kind="stable") if counts[g] > 0]
        counts[able[:-missing]] -= 1
    return counts


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
