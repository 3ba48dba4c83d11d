"""Rank correlation with the published table: right on known orders, silent where it cannot be."""

from __future__ import annotations

import math

import pytest

from coincide.ledger.result import Result
from coincide.report.compare import panels
from coincide.report.published import published
from coincide.report.ranks import correlations
from tests.report.fixture import METHODS, result

TABLE = "llava665k_20pct_llava15_7b"
PRINTED = {row.method: row.rel for row in published(TABLE)}


def as_published(seeds: int, sign: float = 1.0, methods: tuple[str, ...] = METHODS) -> list[Result]:
    """Scores in the order of the published Rel., or in the opposite one."""
    full = [result("full", s, (99.0, 99.0, 99.0), budget=1.0) for s in range(seeds)]
    rows = []
    for method in methods:
        value = 50 + sign * (PRINTED[method] - 90)
        rows += [result(method, s, (value, value, value + s / 100)) for s in range(seeds)]
    return full + rows


def said(results: list[Result]) -> list[str]:
    (panel,) = panels(results)
    return [note.text for note in panel.notes if "Spearman" in note.text]


def test_the_published_order_and_its_opposite() -> None:
    (same,) = said(as_published(2))
    assert "9 methods" in same and "rho +1.00 (95 % over seeds +1.00 to +1.00)" in same
    (opposite,) = said(as_published(2, -1.0))
    assert "rho -1.00" in opposite and "tau -1.00" in opposite


def test_one_seed_has_no_interval_and_three_methods_no_rank() -> None:
    (one,) = said(as_published(1))
    assert "rho +1.00, Kendall" in one
    assert said(as_published(2, methods=METHODS[:3])) == []


def test_the_figures_are_those_of_the_definition() -> None:
    ours, theirs = [3.0, 1.0, 2.0, 5.0], [1.0, 2.0, 3.0, 4.0]
    rho, tau = correlations(ours, theirs)
    differences = [3 - 1, 1 - 2, 2 - 3, 4 - 4]  # of ranks
    assert rho == pytest.approx(1 - 6 * sum(d * d for d in differences) / (4 * 15))
    assert tau == pytest.approx((4 - 2) / 6)
    assert all(map(math.isnan, correlations([1.0, 1.0], [1.0, 2.0])))
