"""The paired bootstrap: against formulas where there are some, and how often it cries wolf."""

from __future__ import annotations

import numpy as np
import pytest

from coincide.report import paired
from coincide.report.paired import (
    OVERALL,
    Sampled,
    bootstrap,
    compare,
    compare_to,
    interval,
    resampled_scores,
    verdict,
    welch,
)


def plain(values: np.ndarray) -> Sampled:
    """A mean over samples, ``values`` [R, n]."""
    return Sampled(values, np.ones_like(values), np.zeros(values.shape[1], int))


def answers(level: float, hard: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return (rng.random(hard.shape) < 1 / (1 + np.exp(-(hard + level)))).astype(float)


def test_the_error_of_a_mean_is_the_known_one() -> None:
    values = np.random.default_rng(0).normal(0, 2, (1, 400))
    drawn = resampled_scores(plain(values), 4000, seed=1)[:, 0]
    assert drawn.mean() == pytest.approx(values.mean(), abs=0.01)
    assert drawn.std() == pytest.approx(values.std() / 20, rel=0.04)


def test_all_runs_get_the_same_samples() -> None:
    one = np.random.default_rng(0).normal(size=50)
    drawn = resampled_scores(plain(np.stack([one, one + 1])), 100, seed=1)
    assert drawn[:, 1] - drawn[:, 0] == pytest.approx(np.ones(100))


def test_f1_and_strata_are_sums_of_ratios() -> None:
    """F1 of 2 true positives, 1 false positive and 1 false negative: 4 / 6."""
    f1 = Sampled(np.array([[2.0, 2, 0, 0, 0]]), np.array([[2.0, 2, 1, 1, 0]]), np.zeros(5, int))
    assert f1.scores() == pytest.approx([4 / 6])
    two = Sampled(np.array([[1.0, 0, 30, 50]]), np.ones((1, 4)), np.array([0, 0, 1, 1]))
    assert two.scores() == pytest.approx([0.5 + 40])
    alone = Sampled(np.array([[1.0, 5.0]]), np.ones((1, 2)), np.array([0, 1]))
    assert resampled_scores(alone, 50, seed=0) == pytest.approx(np.full((50, 1), 6.0))


def test_memory_blocks_do_not_change_what_is_drawn_from(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=(2, 30))
    whole = resampled_scores(plain(values), 500, seed=1)
    monkeypatch.setattr("coincide.report.paired._BLOCK", 300)
    assert np.array_equal(resampled_scores(plain(values), 500, seed=1), whole)


def test_the_same_arguments_give_the_same_difference() -> None:
    values = np.random.default_rng(0).integers(0, 2, (4, 60)).astype(float)
    found = [bootstrap({"a": plain(values)}, [(0, 1), (2, 3)], None, seed=3) for _ in range(2)]
    assert compare(found[0]["a"], 0, 1) == compare(found[1]["a"], 0, 1)
    other = bootstrap({"a": plain(values)}, [(0, 1), (2, 3)], None, seed=4)
    assert compare(other["a"], 0, 1) != compare(found[0]["a"], 0, 1)


def test_pairing_tells_apart_what_two_intervals_would_not() -> None:
    """Both are right on the same hard half; one gets ten more. Alone each is 0.5 -+ 0.07."""
    first = np.repeat([1.0, 0.0], 100)
    second = first.copy()
    second[100:110] = 1
    found = bootstrap({"a": plain(np.stack([second, first]))}, [(0,), (1,)], None)["a"]
    difference = compare(found, 0, 1)
    assert difference.mean == pytest.approx(0.05)
    assert difference.verdict == "better"
    assert not difference.seeds
    assert compare(found, 1, 0).verdict == "worse"
    low, high = interval(found, 0)
    assert low < 0.5 < high


def test_rel_is_drawn_with_the_full_run() -> None:
    """Full and method are right on the same samples but for a constant factor: no noise is left."""
    full = np.random.default_rng(0).integers(0, 2, (1, 200)).astype(float)
    runs = {"a": plain(np.concatenate([full, full * 0.8]))}
    found = bootstrap(runs, [(0,), (1,)], 0)[OVERALL]
    assert found.points == pytest.approx([100, 80])
    assert interval(found, 1) == pytest.approx((80, 80))


def test_no_ratio_to_a_full_run_that_may_be_zero() -> None:
    """One right answer of twenty is drawn never in 36 % of the replicates."""
    full = np.zeros(20)
    full[0] = 1
    found = bootstrap({"a": plain(np.stack([full, np.ones(20)]))}, [(0,), (1,)], 0)
    assert OVERALL not in found
    assert np.isfinite(found["a"].drawn).all()


def test_seeds_widen_the_interval() -> None:
    hard = np.random.default_rng(1).normal(0, 1, 400)
    rng = np.random.default_rng(2)
    close = np.stack([answers(e, hard, rng) for e in (0, 0, 0, 0.3, 0.3, 0.3)])
    apart = np.stack([answers(e, hard, rng) for e in (-0.8, 0, 0.8, -0.5, 0.3, 1.1)])
    width = []
    for values in (close, apart):
        found = bootstrap({"a": plain(values)}, [(0, 1, 2), (3, 4, 5)], None)["a"]
        difference = compare(found, 1, 0)
        width.append(difference.high - difference.low)
    assert width[1] > 3 * width[0]


@pytest.mark.parametrize(("seeds", "spread"), [(1, 0.0), (2, 0.1), (3, 0.0), (3, 0.3)])
def test_equals_are_rarely_told_apart(seeds: int, spread: float) -> None:
    """Of 200 pairs of equals at most 5 % and three standard errors of that are called different."""
    rng = np.random.default_rng(7)
    cried = sum(
        _difference(seeds, spread, 0.0, rng).verdict != "indistinguishable" for _ in range(200)
    )
    assert cried <= 200 * 0.05 + 3 * (200 * 0.05 * 0.95) ** 0.5


def test_a_real_difference_is_found() -> None:
    rng = np.random.default_rng(8)
    found = [_difference(3, 0.05, 0.8, rng).verdict for _ in range(40)]
    assert found.count("better") >= 36
    assert "worse" not in found


def _difference(seeds: int, spread: float, better: float, rng: np.random.Generator):  # type: ignore[no-untyped-def]
    hard = rng.normal(0, 1.2, (3, 150))
    levels = [better * m + rng.normal(0, spread) for m in range(2) for _ in range(seeds)]
    runs = np.stack([answers(level, hard, rng) for level in levels])
    benchmarks = {str(b): plain(runs[:, b]) for b in range(3)}
    groups = [range(seeds), range(seeds, 2 * seeds)]
    return compare(bootstrap(benchmarks, groups, None, times=300)[OVERALL], 1, 0)


def test_without_samples_the_seeds_speak() -> None:
    """Welch: 60, 62, 64 against 50, 52, 54: difference 10, t(4) * sqrt(8 / 3) = 4.534."""
    found = welch([60.0, 62.0, 64.0], [50.0, 52.0, 54.0])
    assert found is not None
    assert (found.low, found.high) == pytest.approx((10 - 4.534, 10 + 4.534), abs=1e-3)
    assert (found.verdict, found.samples) == ("better", 0)
    assert welch([60.0], [50.0, 52.0]) is None


def test_verdicts() -> None:
    assert [verdict(*ends) for ends in ((0.1, 1), (-1, -0.1), (-0.1, 0.1), (0, 0))] == [
        "better", "worse", "indistinguishable", "indistinguishable",
    ]  # fmt: skip


def test_a_row_against_many_is_what_it_is_against_each() -> None:
    values = np.random.default_rng(0).integers(0, 2, (6, 60)).astype(float)
    of = bootstrap({"a": plain(values)}, [(0, 1), (2, 3), (4,), (5,)], None)["a"]
    assert compare_to(of, 0, [1, 2, 3]) == [compare(of, 0, other) for other in (1, 2, 3)]
    drawn = of.drawn[:, 0] - of.drawn[:, 2]
    one = compare(of, 0, 2)
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert one.low <= low and high <= one.high and one.mean == of.points[0] - of.points[2]


@pytest.mark.parametrize("times", [2000, 41])
@pytest.mark.parametrize("q", [0.025, 0.975])
def test_a_quantile_of_sorted_rows_is_numpys(times: int, q: float) -> None:
    drawn = np.random.default_rng(times).normal(size=(50, times))
    drawn[3, 5] = np.nan
    ours = paired._quantile(np.sort(drawn, axis=1), q)
    assert ours.tobytes() == np.quantile(drawn, q, axis=1).tobytes()
