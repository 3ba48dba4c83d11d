"""OnceSelect: its k-DPP against counting, its net, its quotas."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from baselines.gated_net import confidence, fit
from baselines.onceselect import OnceSelect, one_each
from coincide.ops.kdpp import elementary, sample_kdpp
from tests.baselines.pool import make_pool


def test_sets_are_drawn_in_proportion_to_their_determinants() -> None:
    dice = np.random.default_rng(0)
    basis = dice.normal(size=(5, 3))
    kernel = basis @ basis.T
    wanted = {s: np.linalg.det(kernel[np.ix_(s, s)]) for s in combinations(range(5), 2)}
    drawn = [tuple(sample_kdpp(kernel, 2, dice).tolist()) for _ in range(3000)]
    for chosen, determinant in wanted.items():
        expected = determinant / sum(wanted.values())
        assert drawn.count(chosen) / 3000 == pytest.approx(expected, abs=0.04)


def test_copies_are_not_drawn_together_while_others_are_left() -> None:
    dice = np.random.default_rng(1)
    x = np.repeat(np.eye(4), 3, axis=0)
    kernel = (1 + x @ x.T) / 2 * 0.5 + x @ x.T * 0.5
    for _ in range(50):
        found = sample_kdpp(kernel, 4, dice)
        assert sorted(place // 3 for place in found.tolist()) == [0, 1, 2, 3]
    assert len(set(sample_kdpp(kernel, 9, dice).tolist())) == 9  # beyond the rank


def test_the_size_is_exact_and_elementary_sums_are_right() -> None:
    values = np.array([0.5, 2.0, 1.5])
    assert elementary(values, 2)[2, 3] == pytest.approx(0.5 * 2 + 0.5 * 1.5 + 2 * 1.5)
    x = np.random.default_rng(2).normal(size=(128, 40))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    for k in (0, 1, 41, 64, 128):
        assert len(set(sample_kdpp((1 + x @ x.T) / 2, k, np.random.default_rng(3)).tolist())) == k
    with pytest.raises(ValueError, match="expected 0 to 128"):
        sample_kdpp(x @ x.T, 129, np.random.default_rng(0))


def test_the_net_learns_clusters_and_stops_where_it_is_told() -> None:
    dice = np.random.default_rng(4)
    centres = dice.normal(size=(4, 12))
    cluster = np.repeat(np.arange(4), 50)
    x = centres[cluster] + 0.3 * dice.normal(size=(200, 12))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    core = np.arange(200)

    def learnt(accuracy: float) -> tuple[dict[str, np.ndarray], float]:
        return fit(
            x, cluster, core, width=16, lr=0.01, batch=64, accuracy=accuracy, epochs=40, steps=0,
            seed=0,
        )  # fmt: skip

    (sure, high), (unsure, low) = learnt(1.0), learnt(0.6)
    assert high > 0.95 and low < high
    assert confidence(sure, x).mean() > confidence(unsure, x).mean()
    again, same = learnt(0.6)
    assert same == low
    assert all((again[name] == unsure[name]).all() for name in unsure)


def test_every_cluster_gives_one_row_while_there_are_rows_to_give() -> None:
    found = one_each(np.array([4, 0, 0, 2]), np.array([9, 1, 0, 4]))
    assert found.tolist() == [3, 1, 0, 2]
    assert one_each(np.array([1, 1, 0]), np.array([2, 2, 2])).tolist() == [1, 1, 0]


def test_the_least_sure_rows_of_a_cluster_are_its_candidates() -> None:
    pool = make_pool()
    method = OnceSelect(steps=20, epochs=20, text_only="drop", least_rows=40)
    scored, found = method.score(pool, 0), method.select(pool, 60, 3)
    for cluster in range(int(scored["cluster"].max()) + 1):
        rows = np.flatnonzero(scored["cluster"] == cluster)
        taken = found.rows[scored["cluster"][found.rows] == cluster]
        least_sure = sorted(rows.tolist(), key=lambda r: (-scored["score"][r], r))
        assert len(taken) >= 1
        assert set(taken.tolist()) <= set(least_sure[: 2 * len(taken)])
    assert found.rows.tolist() == method.select(pool, 60, 3).rows.tolist()
    assert set(found.rows.tolist()) != set(method.select(pool, 60, 4).rows.tolist())
