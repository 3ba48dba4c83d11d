"""Whole numbers of rows for groups."""

from __future__ import annotations

import numpy as np
import pytest

from baselines.quotas import apportion


@pytest.mark.parametrize(
    ("weights", "room", "total", "expected"),
    [
        ([1, 1, 1], [9, 9, 9], 10, [4, 3, 3]),  # ties go to the lowest group
        ([5, 3, 2], [9, 9, 9], 5, [3, 1, 1]),  # 2.5, 1.5, 1: two halves, one row left
        ([8, 1, 1], [2, 9, 9], 10, [2, 4, 4]),  # a full group passes on what it cannot take
        ([1, 0, 1], [2, 5, 2], 7, [2, 3, 2]),  # weight 0 comes after all others
        ([1, 2], [3, 4], 99, [3, 4]),
        ([0.0, 0.0], [2, 4], 3, [1, 2]),
        ([1.0], [5], 0, [0]),
    ],
)
def test_shares_are_whole_and_as_exact_as_they_can_be(weights, room, total, expected) -> None:
    assert apportion(np.array(weights), np.array(room), total).tolist() == expected


def test_sums_and_rooms_hold_for_any_weights() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        groups = int(rng.integers(1, 12))
        room = rng.integers(0, 30, groups)
        weights = rng.exponential(size=groups) * (rng.random(groups) < 0.8)
        total = int(rng.integers(0, 200))
        found = apportion(weights, room, total)
        assert found.sum() == min(total, room.sum())
        assert (found >= 0).all() and (found <= room).all()


def test_weights_below_zero_are_refused() -> None:
    with pytest.raises(ValueError, match="expected one >= 0 for each group"):
        apportion(np.array([1.0, -1.0]), np.array([1, 1]), 1)
