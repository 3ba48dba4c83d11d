"""Self-Filter's stage 2 against the released double loop."""

from __future__ import annotations

import numpy as np
import pytest

from baselines.self_filter import SelfFilter, neighborhood, select
from tests.baselines.pool import make_pool


def released(
    difficulty: np.ndarray, x: np.ndarray, k: int, neighbors: int, gamma: float, always: bool
) -> list[int]:
    """Stage 2 as published: sort and scan everything for every pick."""
    d = {i: float(value) for i, value in enumerate(difficulty)}
    unit = x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    picked = []
    for _ in range(k):
        row = min(d, key=lambda i: (-d[i], i))
        value = d.pop(row)
        picked.append(row)
        if value <= 0 and not always:
            continue
        nearest = sorted(d, key=lambda i: (-(unit[i] @ unit[row]), i))[:neighbors]
        for other in nearest:
            d[other] -= gamma * value * (unit[other] @ unit[row]) ** 2
    return picked


@pytest.mark.parametrize("negative", ["none", "released"])
@pytest.mark.parametrize("depth", [3, 12, 299])
@pytest.mark.parametrize("offset", [0.0, 1.5])
def test_stage_two_equals_the_released_loop(negative: str, depth: int, offset: float) -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(300, 6)).astype(np.float32)
    difficulty = rng.normal(size=300).astype(np.float32) + np.float32(offset)
    near = neighborhood(x, depth)
    ours = select(difficulty, near, 250, neighbors=10, gamma=0.7, negative=negative)  # type: ignore[arg-type]
    assert ours.tolist() == released(difficulty, x, 250, 10, 0.7, negative == "released")
    assert (near.searches > 0) == (depth < 299)


def test_without_neighbours_it_is_the_top_of_the_ranking() -> None:
    difficulty = np.random.default_rng(0).normal(size=100)
    near = neighborhood(np.random.default_rng(1).normal(size=(100, 4)), 10)
    ours = select(difficulty, near, 30, neighbors=0)
    assert ours.tolist() == np.argsort(-difficulty, kind="stable")[:30].tolist()


def test_the_copy_of_a_pick_falls_to_zero() -> None:
    x = np.array([[1.0, 0], [1, 0], [0, 1], [0.1, 1]])
    picked = select(np.array([1.0, 1, 0.3, 0.2]), neighborhood(x, 3), 4, neighbors=1)
    assert picked.tolist() == [0, 2, 1, 3]  # 1 is at 0, 3 below it as a like of 2


def test_everything_can_be_picked() -> None:
    rng = np.random.default_rng(2)
    for rows in (1, 2, 12):
        near = neighborhood(rng.normal(size=(rows, 4)), 64)
        assert sorted(select(rng.normal(size=rows), near, rows).tolist()) == list(range(rows))


def test_depth_is_speed_alone() -> None:
    assert SelfFilter(depth=8).key_config() == SelfFilter(depth=64).key_config()
    pool = make_pool()
    one, other = (SelfFilter(depth=depth).select(pool, 120, 0).rows for depth in (11, 200))
    np.testing.assert_array_equal(one, other)
