"""Score -> subset: the three windows, ties, NaN, and the policies for text-only rows."""

from __future__ import annotations

import numpy as np
import pytest

from baselines.ranking import has_answer, preference, select_by_score, shares
from tests.baselines.pool import make_pool

NAN = np.nan


def window(score: np.ndarray, m: int, direction: str) -> set[int]:
    """The rule as the released training code has it, by brute force."""
    rows = [i for i in range(len(score)) if not np.isnan(score[i])]
    order = sorted(rows, key=lambda i: (score[i], i))
    n = len(order)
    start = {"low": 0, "middle": n // 2 - m // 2, "high": n - m}[direction]
    return set(order[start : start + m])


@pytest.mark.parametrize("direction", ["low", "middle", "high"])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 50])
def test_every_prefix_is_the_released_window(direction: str, n: int) -> None:
    rng = np.random.default_rng(n)
    score = rng.integers(0, 6, n).astype(np.float32)  # many ties
    score[rng.random(n) < 0.2] = NAN
    order = preference(score, direction)
    scored = int((~np.isnan(score)).sum())
    assert sorted(order.tolist()) == np.flatnonzero(~np.isnan(score)).tolist()
    for m in range(scored + 1):
        assert set(order[:m].tolist()) == window(score, m, direction)


def test_ties_are_broken_by_row_and_scores_are_float32() -> None:
    assert preference(np.zeros(5), "low").tolist() == [0, 1, 2, 3, 4]
    apart_in_float16_no_more = np.array([0.50001, 0.5], dtype=np.float32)
    assert preference(apart_in_float16_no_more, "low").tolist() == [1, 0]


@pytest.mark.parametrize("policy", ["keep", "quota", "drop"])
@pytest.mark.parametrize("k", [1, 10, 77, 200])
def test_policies_for_text_only_rows(policy: str, k: int) -> None:
    pool = make_pool()
    score = np.linspace(0, 1, 300).astype(np.float32)
    found = select_by_score(pool, score, k, "high", policy, seed=3)
    text = np.array([not e.images for e in pool.examples])
    answered = np.array([has_answer(e) for e in pool.examples])
    assert len(set(found.rows.tolist())) == k
    assert pool.usable[found.rows].all()
    assert answered[found.rows].all()
    able = pool.usable & answered
    taken = int(text[found.rows].sum())
    if policy == "drop":
        assert taken == 0
    elif policy == "quota":
        assert abs(taken - k * (able & text).sum() / able.sum()) <= 0.5
        images = [r for r in found.rows if not text[r]]
        assert set(images) == window(np.where(able & ~text, score, NAN), k - taken, "high")
    else:
        assert set(found.rows.tolist()) == window(np.where(able, score, NAN), k, "high")


def test_the_quota_is_drawn_by_seed_and_nested_over_budgets() -> None:
    pool = make_pool()
    everything = np.ones(300, dtype=bool)

    def drawn(k: int, seed: int) -> set[int]:
        return set(shares(pool, everything, k, "quota", seed).text.tolist())

    assert drawn(100, 1) == drawn(100, 1)
    assert drawn(100, 1) != drawn(100, 2)
    assert drawn(50, 1) <= drawn(100, 1) <= drawn(250, 1)


def test_the_quota_never_asks_for_more_than_there_is() -> None:
    pool = make_pool(60)
    defined = np.ones(60, dtype=bool)
    able = sum(pool.usable[i] and has_answer(e) for i, e in enumerate(pool.examples))
    for k in range(1, able + 1):
        share = shares(pool, defined, k, "quota", 0)
        assert share.k + len(share.text) == k
        assert share.k <= share.candidates.sum()
