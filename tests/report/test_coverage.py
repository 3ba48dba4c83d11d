"""Intervals hold the truth as often as they say, on data that share pictures as real ones do."""

from __future__ import annotations

import pytest

from bench.coverage import BENCHMARKS, by_unit, coverage


@pytest.mark.parametrize("name", ["pope", "gqa", "mme"])
def test_95_percent_intervals_hold_the_truth(name: str) -> None:
    """Of 400 draws 95 % within three standard errors; rows in place of units hold it far less."""
    found = coverage(name, 400, 40, 300)
    held, times = found["score"]
    assert abs(held / times - 0.95) <= 3 * (0.95 * 0.05 / times) ** 0.5
    assert found["as rows"][0] < held - 0.08 * times
    assert found["difference"][0] >= 40 - 7
    assert found["bootstrap"][0] >= 40 - 7


def test_the_sharing_is_the_real_one() -> None:
    import numpy as np

    made = {name: BENCHMARKS[name]()(np.random.default_rng(0)) for name in BENCHMARKS}
    sizes = {name: (one.num.shape[1], by_unit(one).units) for name, one in made.items()}
    assert sizes == {
        "pope": (9_000, 500), "gqa": (12_578, 398), "vqav2": (214_354, 40_504),
        "mme": (2_114, 1_057),
    }  # fmt: skip
