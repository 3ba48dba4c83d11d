"""Intervals and Rel. (%) against values worked out by hand."""

from __future__ import annotations

import pytest

from coincide.report.published import published, published_beside
from coincide.report.statistics import estimate, relative
from coincide.schema import UserError


def test_the_interval_is_students() -> None:
    """Values 1, 2, 3: s = 1, t(2, 0.975) = 4.302653, half width t / sqrt(3) = 2.484138."""
    found = estimate([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.half_width == pytest.approx(2.484138, abs=1e-6)
    assert (found.low, found.high) == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-6)


def test_two_seeds() -> None:
    """Values 60, 64: s = 2.828427, t(1, 0.975) = 12.706205, half width t * s / sqrt(2) = 25.41."""
    assert estimate([60.0, 64.0]).half_width == pytest.approx(25.412410, abs=1e-5)


def test_one_seed_has_no_interval() -> None:
    found = estimate([5.0])
    assert (found.mean, found.low, found.high, found.half_width) == (5.0, None, None, None)


def test_rel_is_the_mean_of_ratios_not_the_ratio_of_means() -> None:
    found = relative([{"a": 50.0, "b": 30.0}], {"a": 100.0, "b": 40.0})
    assert found.estimate is not None
    assert found.estimate.mean == pytest.approx((50 + 75) / 2)
    assert found.columns == ("a", "b")


def test_rel_has_an_interval_over_seeds() -> None:
    """Rel. of the seeds: 55, 65; so 60 and t(1) * 7.071068 / sqrt(2) = 63.53."""
    full = {"a": 100.0, "b": 50.0}
    found = relative([{"a": 50.0, "b": 30.0}, {"a": 60.0, "b": 35.0}], full).estimate
    assert found is not None
    assert found.values == pytest.approx((55, 65))
    assert found.half_width == pytest.approx(63.531024, abs=1e-5)


def test_a_score_missing_in_one_seed_leaves_the_column_out_for_all() -> None:
    full = {"a": 100.0, "b": 50.0, "c": 0.0}
    found = relative([{"a": 50.0, "b": 30.0, "d": 1.0}, {"a": 60.0, "d": 1.0}], full)
    assert found.columns == ("a",)
    assert found.left_out == {
        "b": "1 of 2 seeds have no score",
        "c": "the full-data score is 0, no ratio can be taken",
        "d": "the full-data run has no such score",
    }


def test_nothing_in_common_is_no_rel() -> None:
    found = relative([{"a": 1.0}], {"b": 1.0})
    assert found.estimate is None
    assert "no benchmark in common" in found.why


@pytest.mark.parametrize(
    ("name", "rel"),
    [
        ("llava665k_20pct_llava15_7b", {"coincide": 97.4, "random": 95.8, "d2_pruning": 94.8}),
        ("llava665k_20pct_llava15_13b", {"coincide": 96.8, "d2_pruning": 95.9, "semdedup": 93.0}),
        ("vision_flan186k_20pct_llava15_7b", {"random": 91.8}),
    ],
)
def test_published_rel_recomputes_to_the_printed_digit(name: str, rel: dict[str, float]) -> None:
    rows = {row.method: row for row in published(name)}
    assert rows["full"].rel == 100
    for method, printed in rel.items():
        assert rows[method].rel_printed == printed
        assert rows[method].rel == pytest.approx(printed, abs=0.051)


def test_published_tables_are_found_by_data_and_target() -> None:
    assert len(published_beside("llava", "llava_1_5_7b")) == 13
    assert published_beside("demo", "tiny") == []
    with pytest.raises(UserError, match="vision_flan186k_20pct_llava15_7b"):
        published("nothing")
