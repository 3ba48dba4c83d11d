"""The committed table is what its committed ledger gives, and DEMO.md prints its figures."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from coincide.report.compare import panels
from coincide.report.formats import comma_separated
from coincide.report.ledger import presentable, read_ledger
from coincide.report.records import Panel

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def panel() -> Panel:
    (found,) = panels([presentable(r) for r in read_ledger(DOCS / "demo_table" / "ledger")])
    return found


def test_the_report_is_of_the_ledger(panel: Panel) -> None:
    written = (DOCS / "demo_table" / "report.csv").read_text(encoding="utf-8")
    assert comma_separated([panel]) == written
    five = {row.method for row in panel.rows if row.seeds == [0, 1, 2, 3, 4]}
    assert five == {row.method for row in panel.rows}
    assert len(five) == 10


def test_the_page_prints_its_figures(panel: Panel) -> None:
    text = (DOCS / "DEMO.md").read_text(encoding="utf-8")
    printed = dict(re.findall(r"^\| (\w+) \| ([\d.]+ ± [\d.]+) \|", text, re.M))
    found = {}
    for row in panel.rows:
        if row.method in printed and not any(f in row.label for f in ("sources", "low")):
            assert row.rel.estimate is not None
            assert row.rel.estimate.half_width is not None
            found[row.method] = f"{row.rel.estimate.mean:.1f} ± {row.rel.estimate.half_width:.1f}"
    assert len(found) == 9
    assert printed == found
