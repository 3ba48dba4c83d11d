"""Intervals and Rel. (%) against values worked out by hand."""

from __future__ import annotations

import pytest

from coincide.report.published import published, published_beside
from coincide.report.statistics import estimate, relative, stated_columns, t_quantile
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
    full = [{"a": 100.0, "b": 40.0}]
    found = relative([{"a": 50.0, "b": 30.0}], full, ("a", "b")).estimate
    assert found is not None
    assert found.mean == pytest.approx((50 + 75) / 2)
    assert found.low is None


def test_rel_has_an_interval_over_seeds_and_over_those_of_the_full_run() -> None:
    """Seeds 55 and 65, so 60 with variance 25; full seeds pull by 60 and 60 / 60 -+ 2: see below.

    Column a: full 96 and 104, mean 100; b: full 50 and 50. Mean of the runs: a 55, b 32.5. The
    full seeds move Rel. by 100 x 55 x 96 / 100² / 2 = 26.4 and 28.6, variance 1.21. Together
    26.21; Satterthwaite 26.21² / (25² + 1.21²) = 1.0967 degrees; t = 10.356.
    """
    full = [{"a": 96.0, "b": 50.0}, {"a": 104.0, "b": 50.0}]
    runs = [{"a": 50.0, "b": 30.0}, {"a": 60.0, "b": 35.0}]
    found = relative(runs, full, ("a", "b")).estimate
    assert found is not None
    assert found.values == pytest.approx((55, 65))
    assert found.half_width == pytest.approx(t_quantile(26.21**2 / (25**2 + 1.21**2)) * 26.21**0.5)
    exact = relative(runs, full[:1], ("a", "b"), full_is_exact=True).estimate
    assert exact is not None
    assert exact.half_width == pytest.approx(estimate(exact.values).half_width, rel=1e-12)


def test_one_full_run_has_no_known_noise_so_rel_has_no_interval() -> None:
    found = relative([{"a": 50.0}, {"a": 60.0}], [{"a": 100.0}], ("a",))
    assert found.estimate is not None
    assert found.estimate.half_width is None
    assert "1 full-data run" in found.no_interval


def test_rel_above_chance_subtracts_it_on_both_sides() -> None:
    found = relative([{"a": 60.0}], [{"a": 90.0}], ("a",), chance={"a": 50.0}).estimate
    assert found is not None
    assert found.mean == pytest.approx(100 * 10 / 40)


def test_a_run_without_a_stated_column_has_no_rel() -> None:
    found = relative([{"a": 50.0, "b": 30.0}, {"a": 60.0}], [{"a": 100.0, "b": 50.0}], ("a", "b"))
    assert found.estimate is None
    assert found.why == "no b"


def test_columns_at_chance_or_zero_or_missing_in_a_full_run_are_not_stated() -> None:
    full = [{"a": 80.0, "b": 52.0, "c": 0.0, "d": 9.0}, {"a": 80.0, "b": 52.0, "c": 0.0}]
    columns, left_out = stated_columns(full, {"a": 50.0, "b": 50.0}, {"a": 1.5, "b": 1.5})
    assert columns == ("a",)
    assert left_out == {
        "b": "the full-data score 52 is at chance (50) within noise",
        "c": "the full-data score 0 is not above 0",
        "d": "not every full-data run has it",
    }


def test_nothing_in_common_is_no_rel() -> None:
    found = relative([{"a": 1.0}], [{"b": 1.0}], ())
    assert found.estimate is None
    assert "no benchmark" in found.why


@pytest.mark.parametrize(
    ("name", "rel"),
    [
        ("llava665k_20pct_llava15_7b", {"coincide": 97.4, "random": 95.8, "d2_pruning": 94.8}),
        ("llava665k_20pct_llava15_13b", {"coincide": 96.8, "d2_pruning": 95.9, "semdedup": 93.0}),
        ("vision_flan186k_20pct_llava15_7b", {"random": 91.8}),
        ("llava665k_15pct_llava15_7b", {"random": 94.2, "coincide": 95.8, "visnec": 100.2}),
    ],
)
def test_published_rel_recomputes_to_the_printed_digit(name: str, rel: dict[str, float]) -> None:
    rows = {row.method: row for row in published(name)}
    assert rows["full"].rel == 100
    for method, printed in rel.items():
        assert rows[method].rel_printed == printed
        assert rows[method].rel == pytest.approx(printed, abs=0.051)


def test_published_tables_are_found_by_data_and_target() -> None:
    (table,) = published_beside("llava", "llava_1_5_7b")
    assert len(table.rows) == 13
    assert table.prints("pope", "f1", "")
    assert not table.prints("pope", "accuracy", "")
    assert not table.prints("mmmu", "accuracy", "")
    assert published_beside("demo", "tiny", [0.2]) == ()
    at = [t.printed.budget for t in published_beside("llava", "llava_1_5_7b", [0.15, 0.2, 0.3])]
    assert at == [0.2, 0.15]
    whole, alone = published_beside("vision_flan", "llava_1_5_7b", [0.25])
    assert whole.columns and not alone.columns and alone.printed.budget == 0.25
    prism = alone.row("prism")
    assert prism is not None and prism.scores == {} and prism.rel == prism.rel_printed == 98.5
    with pytest.raises(UserError, match="vision_flan186k_20pct_llava15_7b"):
        published("nothing")
