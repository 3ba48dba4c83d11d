"""IFD and DICS: what the question and the picture add, against plain twins."""

from __future__ import annotations

import numpy as np
import pytest

from baselines.dics import Dics, farthest_first
from baselines.ifd import Ifd, highest_first
from baselines.quotas import apportion
from coincide.features.signals.hidden_mean import HiddenMean
from coincide.features.signals.token_scores import TokenScores
from coincide.features.signals.token_scores_blind import TokenScoresBlind
from coincide.features.signals.token_scores_unasked import TokenScoresUnasked
from tests.baselines.pool import MemoryPool, make_pool


@pytest.fixture(scope="module")
def pool() -> MemoryPool:
    return make_pool()


def losses(pool: MemoryPool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    whole = pool.signal(TokenScores())[:, 2]
    return whole, *(pool.signal(s)[:, 0] for s in (TokenScoresBlind(), TokenScoresUnasked()))


def test_ifd_is_loss_with_the_question_over_loss_without(pool: MemoryPool) -> None:
    whole, _, unasked = losses(pool)
    score = Ifd().score(pool, 0)["score"]
    for row in range(0, 300, 7):
        if not np.isnan(whole[row]):
            assert score[row] == pytest.approx(whole[row] / unasked[row], rel=1e-6)
    found = Ifd().select(pool, 80, 0)
    below = [r for r in range(300) if pool.usable[r] and score[r] < 1]
    expected = sorted(below, key=lambda r: (-score[r], r))[:80]
    assert found.rows.tolist() == expected
    assert found.facts["chosen_above_one"] == 0


def test_questions_that_mislead_come_last_and_the_worst_of_them_at_the_end() -> None:
    score = np.array([0.2, 1.5, np.nan, 0.9, 1.0, 0.9, 1.1], np.float32)
    assert highest_first(score, "last").tolist() == [3, 5, 0, 4, 6, 1]
    assert highest_first(score, "keep").tolist() == [1, 6, 4, 3, 5, 0]


def test_a_model_that_ignores_questions_gives_every_row_the_same_ifd(pool: MemoryPool) -> None:
    values = pool.signal(TokenScores())[:, 2:3]
    same = MemoryPool(pool.examples, pool.usable, {**pool.signals, TokenScoresUnasked(): values})
    score = Ifd().score(same, 0)["score"]
    assert set(score[~np.isnan(score)].tolist()) == {1.0}


def test_farthest_points_equal_a_plain_traversal() -> None:
    x = np.random.default_rng(3).normal(size=(60, 5))
    x[7] = 2 * x[0]  # as near as can be, whatever its length
    u = x / np.linalg.norm(x, axis=1, keepdims=True)
    taken = [0]
    while len(taken) < 60:
        left = [i for i in range(60) if i not in taken]
        taken.append(
            min(left, key=lambda i: (max(round(float(u[i] @ u[j]), 12) for j in taken), i))
        )
    found = farthest_first(x, 60).tolist()
    assert found[:59] == taken[:59] and found[-1] == 7
    assert farthest_first(x, 0).tolist() == []


@pytest.mark.parametrize("contribution", ["loss", "gain"])
def test_dics_ranks_by_the_smaller_contribution(pool: MemoryPool, contribution: str) -> None:
    whole, blind, unasked = losses(pool)
    base = whole if contribution == "gain" else 0 * whole
    expected = np.minimum(blind - base, unasked - base)
    score = Dics(contribution=contribution).score(pool, 0)["score"]  # type: ignore[arg-type]
    np.testing.assert_allclose(score, expected, rtol=1e-5, atol=1e-6)
    keep = Dics(text_only="keep").score(pool, 0)["score"]
    text = [e.row for e in pool.examples if not e.images and not np.isnan(whole[e.row])]
    assert set(keep[text].tolist()) == {1.0}


def test_dics_spreads_its_candidates_in_every_cluster(pool: MemoryPool) -> None:
    method = Dics(clusters=6, text_only="drop", oversample=2.5)
    k = 40
    score = method.score(pool, 0)["score"]
    able = [r for r in np.flatnonzero(pool.usable).tolist() if pool.examples[r].images]
    able = [r for r in able if not np.isnan(score[r])]
    candidates = sorted(able, key=lambda r: (-score[r], r))[:100]
    assignment = pool.clusters(method.needs()[-1]).assignment  # type: ignore[arg-type]
    groups = [[r for r in candidates if assignment[r] == c] for c in range(6)]
    sizes = np.array(list(map(len, groups)))
    expected: list[int] = []
    for group, count in zip(groups, apportion(sizes, sizes, k).tolist(), strict=True):
        x = np.asarray(pool.signal(HiddenMean())[group], np.float64)
        expected += [group[i] for i in farthest_first(x, count)]
    assert method.select(pool, k, 0).rows.tolist() == expected
