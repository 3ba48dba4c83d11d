"""A fraction is a float in (0, 1], a count an int >= 1; nothing else passes."""

from __future__ import annotations

import math

import pytest

from coincide.schema import UserError
from coincide.selection.budget import check, count


@pytest.mark.parametrize(
    ("budget", "rows", "expected"),
    [
        (0.2, 665_298, 133_059),  # the paper's subset of LLaVA-665K
        (1.0, 4000, 4000),
        (1, 4000, 1),
        (800, 4000, 800),
        (0.29, 100, 29),  # 0.29 * 100 is 28.999999999999996
        (1e-9, 4000, 1),
    ],
)
def test_the_exact_count(budget: float, rows: int, expected: int) -> None:
    assert count(budget, rows) == expected


@pytest.mark.parametrize("budget", [0, 0.0, -0.2, -3, math.nan, math.inf, 1.5, True, "0.2", None])
def test_out_of_range_is_refused_with_the_choices(budget: object) -> None:
    with pytest.raises(UserError, match="a float in"):
        check(budget)


def test_a_fraction_above_one_suggests_the_count() -> None:
    with pytest.raises(UserError, match="Did you mean the count budget=800"):
        check(800.0)


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(UserError, match="the pool of 4,000"):
        count(4001, 4000)
