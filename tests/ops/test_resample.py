"""Sums of ratios over units: values and errors against ones by hand or by brute force."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from coincide.ops.resample import ratio_of_sums, resampling_units, standard_error


def draws(strata: np.ndarray, count: int, seed: int) -> np.ndarray:
    """``count`` bootstrap draws, [count, U]: in each stratum as many units as it has."""
    generator = np.random.default_rng(seed)
    weights = np.zeros((count, len(strata)), np.int64)
    for stratum in np.unique(strata):
        inside = np.flatnonzero(strata == stratum)
        even = np.full(len(inside), 1 / len(inside))
        weights[:, inside] = generator.multinomial(len(inside), even, size=count)
    return weights


def rows(*scores: float | None, **more: list[Any]) -> list[dict[str, Any]]:
    return [
        {"doc_id": i, "score": score, **{name: values[i] for name, values in more.items()}}
        for i, score in enumerate(scores)
    ]


def value(found: list[dict[str, Any]]) -> float:
    units = resampling_units(found)
    return float(ratio_of_sums(units.num, units.den, units.strata)[0])


def test_a_mean_leaves_out_what_has_no_value() -> None:
    assert value(rows(1.0, None, 0.0, 0.5)) == 0.5
    assert resampling_units(rows(1.0, None, 0.0)).ids == ("0", "2")


def test_f1_is_a_ratio_of_sums() -> None:
    """TP 1, FP 1, FN 2."""
    assert value(rows(1, 0, 0, 0, 1, num=[2, 0, 0, 0, 0], den=[2, 1, 1, 1, 0])) == 2 / 5


def test_strata_are_summed_and_units_kept_together() -> None:
    found = rows(*[0.0] * 6, num=[100, 100, 50, 0, 100, 100], den=[0.5] * 6,
                 unit=list("aabbcc"), stratum=list("xxxxyy"))  # fmt: skip
    assert value(found) == (200 + 50) / 2 + 200
    units = resampling_units(found)
    assert units.ids == ("a", "b", "c") and units.strata.tolist() == [0, 0, 1]


def test_weights_are_repetitions() -> None:
    generator = np.random.default_rng(0)
    num, den, strata = generator.random(9), generator.random(9), np.array([0] * 5 + [1] * 4)
    weights = draws(strata, 20, seed=0)
    for weight, fast in zip(weights, ratio_of_sums(num, den, strata, weights), strict=True):
        again = [i for i, count in enumerate(weight) for _ in range(count)]
        slow = sum(
            sum(num[i] for i in again if strata[i] == s)
            / sum(den[i] for i in again if strata[i] == s)
            for s in (0, 1)
        )
        assert fast == pytest.approx(slow)


def test_the_error_of_a_mean_is_exact_and_the_linearised_one_agrees() -> None:
    scores = np.random.default_rng(1).integers(0, 2, 400).astype(float).tolist()
    exact = standard_error(resampling_units(rows(*scores)))
    p = sum(scores) / 400
    assert exact == pytest.approx(math.sqrt(p * (1 - p) / 399))
    # a second, empty-handed stratum forces the linearised error on the same numbers
    two = rows(*scores, 0.0, stratum=["a"] * 400 + ["b"])
    assert standard_error(resampling_units(two)) == pytest.approx(exact)


def test_units_make_the_error_larger_than_rows() -> None:
    scores = [float(i // 4 % 2) for i in range(80)]
    together = standard_error(resampling_units(rows(*scores, unit=[i // 4 for i in range(80)])))
    assert together == pytest.approx(math.sqrt(0.25 / 19))
    assert together > 1.9 * standard_error(resampling_units(rows(*scores)))


def test_a_ratio_over_unequal_units_has_the_error_of_its_bootstrap() -> None:
    generator = np.random.default_rng(5)
    sizes = generator.integers(1, 30, 300)
    hits = [generator.binomial(n, p) for n, p in zip(sizes, generator.beta(2, 1, 300), strict=True)]
    found = rows(*[float(h) for h in hits], num=list(map(float, hits)), den=list(map(float, sizes)))
    units = resampling_units(found)
    drawn = ratio_of_sums(units.num, units.den, units.strata, draws(units.strata, 4000, seed=0))
    assert standard_error(units) == pytest.approx(drawn.std(), rel=0.04)


def test_a_picture_in_several_strata_is_one_unit_of_all() -> None:
    """POPE's pictures are in its three categories: what they share adds up, and is not averaged."""
    values = np.random.default_rng(2).random(100)
    of_one = standard_error(resampling_units(rows(*values)))
    three = rows(*values, *values, *values, unit=[*range(100)] * 3,
                 stratum=["a"] * 100 + ["b"] * 100 + ["c"] * 100)  # fmt: skip
    assert standard_error(resampling_units(three)) == pytest.approx(3 * of_one)
    apart = rows(*values, *values, unit=[*range(200)], stratum=["a"] * 100 + ["b"] * 100)
    assert standard_error(resampling_units(apart)) == pytest.approx(math.sqrt(2) * of_one)


def test_what_has_no_error() -> None:
    assert (
        standard_error(resampling_units([])) is None
        and standard_error(resampling_units(rows(1.0))) is None
    )
    assert math.isnan(value([]))
    assert math.isnan(value(rows(0.0, 0.0, den=[0.0, 0.0])))
