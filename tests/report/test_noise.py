"""Seed noise and the least difference, against the definition and against Welch's interval."""

from __future__ import annotations

import numpy as np
import pytest

from coincide.report.compare import panels
from coincide.report.noise import least_difference
from coincide.report.paired import welch
from tests.report.fixture import result


def test_two_rows_are_told_apart_from_the_least_difference_on() -> None:
    first = (1.0, 2.0, 3.0, 4.0, 5.0)
    deviation, least, seeds = least_difference([first, first])
    assert deviation == pytest.approx(np.std(first, ddof=1))
    assert seeds == 5
    inside, outside = ([v + least * f for v in first] for f in (0.99, 1.01))
    # of equal variances Welch's degrees of freedom are the pooled ones
    assert welch(inside, first).low < 0 < welch(outside, first).low  # type: ignore[union-attr]


def test_the_report_says_it_with_three_rows() -> None:
    rows = [result("full", s, (99.0, 99.0, 99.0), budget=1.0) for s in (0, 1)]
    for method in ("random", "coincide", "el2n"):
        rows += [result(method, s, (50.0 + s, 50.0, 50.0)) for s in (0, 1)]
    notes = {n: "".join(x.text for x in panels(rows[:n])[0].notes) for n in (6, 8)}
    assert "Seed noise" not in notes[6]
    assert "Seed noise at 800 examples" in notes[8]
    assert "pooled over 3 rows" in notes[8]
