"""The committed tables are what their committed ledgers give, and the pages print their figures."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from coincide.ledger.files import presentable, read_ledger
from coincide.report.compare import panels
from coincide.report.formats import comma_separated, markdown
from coincide.report.pairs import Pairs
from coincide.report.records import Panel
from coincide.report.scoring import by_scoring

DOCS = Path(__file__).resolve().parents[2] / "docs"


ABLATIONS = {
    "layers 1": "[layers=[1]]",
    "layers 3": "[layers=[3]]",
    "layers 5": "[layers=[5]]",
    "K 20": "[clusters=20]",
    "K 40": "[clusters=40]",
    "K 160": "[clusters=160]",
    "temperature 0.01": "[temperature=0.01]",
    "temperature 1": "[temperature=1.0]",
    "temperature 10": "[temperature=10.0]",
    "uniform for MMD": "[within=random]",
    "uniform for density": "[use_density=false]",
    "uniform for transferability": "[use_transferability=false]",
    "uniform for density and MMD": "[use_density=false, within=random]",
    "uniform for transferability and MMD": "[use_transferability=false, within=random]",
    "uniform for transferability and density": "[use_density=false, use_transferability=false]",
    "uniform for all three": "[use_density=false, use_transferability=false, within=random]",
}


def panel_of(ledger: str) -> Panel:
    (found,) = panels([presentable(r) for r in read_ledger(DOCS / ledger / "ledger.jsonl.gz")])
    return found


@pytest.fixture(scope="module")
def panel() -> Panel:
    return panel_of("demo_table")


def test_the_report_is_of_the_ledger(panel: Panel) -> None:
    written = (DOCS / "demo_table" / "report.csv").read_text(encoding="utf-8")
    assert comma_separated([panel]) == written
    five = {row.method for row in panel.rows if row.seeds == [0, 1, 2, 3, 4]}
    assert five == {row.method for row in panel.rows}
    assert len(five) == 10


def test_the_page_prints_its_figures(panel: Panel) -> None:
    text = (DOCS / "DEMO.md").read_text(encoding="utf-8").split("## The demo's table")[1]
    text = text.split("\n## ")[0]
    printed = dict(re.findall(r"^\| (\w+) \| ([\d.]+ ± [\d.]+) \|", text, re.M))
    found = {}
    for row in panel.rows:
        if row.method in printed and not any(f in row.label for f in ("sources", "low")):
            assert row.rel.estimate is not None
            assert row.rel.estimate.half_width is not None
            found[row.method] = f"{row.rel.estimate.mean:.1f} ± {row.rel.estimate.half_width:.1f}"
    assert len(found) == 9
    assert printed == found


def test_the_labs_pages_are_of_its_ledger() -> None:
    """LAB.md prints Rel. by both scores, and so do the reports beside the ledger."""
    results = [presentable(r) for r in read_ledger(DOCS / "lab_table" / "ledger.jsonl.gz")]
    text = (DOCS / "LAB.md").read_text(encoding="utf-8").split("## What it says so far")[1]
    means: dict[str, list[str]] = {}
    for scoring, file in (("strict", "report.csv"), ("likelihood", "report-likelihood.csv")):
        (panel,) = panels(by_scoring(results, scoring))
        written = (DOCS / "lab_table" / file).read_text(encoding="utf-8")
        assert comma_separated([panel]) == written
        for row in panel.rows:
            estimate = row.rel.estimate
            if row.method != "full":
                assert row.seeds == [0, 1, 2, 3, 4] and estimate and estimate.half_width
                mean = f"{estimate.mean:.1f} ± {estimate.half_width:.1f}"
                means.setdefault(row.method, []).append(mean)
    lines = re.findall(r"^\| `(\w+)` \| ([^|]+) \|[^|]*\| ([^|]+) \|", text, re.M)
    assert {method: list(found) for method, *found in lines} == means


def test_the_labs_page_prints_where_its_noise_comes_from() -> None:
    text = " ".join((DOCS / "LAB.md").read_text(encoding="utf-8").split())
    said = {
        "report.md": "standard deviation of {} points, of whose variance which rows are selected "
        "makes {} %, order and initial weights {} %, the 3,500 questions {} %",
        "report-likelihood.md": "by likelihood {} points: {}, {} and {} %",
    }
    for name, sentence in said.items():
        written = (DOCS / "lab_noise" / name).read_text(encoding="utf-8")
        noise = re.search(
            r"standard deviation of ([\d.]+) points\. Of its variance, which rows are selected "
            r"(\d+) %, order and initial weights (\d+) %, the 3,500 questions (\d+) %", written,
        )  # fmt: skip
        assert noise is not None
        assert sentence.format(*noise.groups()) in text


@pytest.mark.parametrize("name", ["demo_ablations", "demo_curve", "table_2026_demo"])
def test_the_other_reports_are_of_their_ledgers(name: str) -> None:
    written = (DOCS / name / "report.csv").read_text(encoding="utf-8")
    assert comma_separated([panel_of(name)]) == written


@pytest.mark.parametrize("name", ["demo_table", "demo_ablations", "demo_curve"])
def test_titles_rows_and_notes_of_old_ledgers_stay_as_they_were(name: str) -> None:
    """They were written before results recorded the content of data and models."""
    written = (DOCS / name / "report.md").read_text(encoding="utf-8").splitlines()
    made = markdown([panel_of(name)], [Pairs("")]).splitlines()
    assert [line for line in made if line not in written] == []


def test_the_page_prints_the_ablations() -> None:
    names = {
        f"coincide (released) {fields} via tiny_ref": name for name, fields in ABLATIONS.items()
    } | {
        "coincide (released) via tiny_ref": "`coincide`",
        "coincide (released) [size=tiny] via tiny": "reference is the target",
        "coincide (paper) via tiny_ref": "paper's formulas",
        "random": "`random`",
    }
    text = (DOCS / "demo_ablations" / "README.md").read_text(encoding="utf-8")
    printed = dict(re.findall(r"^\| ([^|]+) \| ([\d.]+ ± [\d.]+) \|", text, re.M))
    found = {}
    for row in panel_of("demo_ablations").rows:
        if row.method != "full":
            assert row.seeds == [0, 1, 2]
            assert row.rel.estimate is not None
            assert row.rel.estimate.half_width is not None
            mean = f"{row.rel.estimate.mean:.1f} ± {row.rel.estimate.half_width:.1f}"
            found[names[row.label]] = mean
    assert printed == found


def test_the_page_prints_the_2026_table() -> None:
    text = (DOCS / "table_2026_demo" / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| `(\w+)`(?: of `(\w+)`)?[^|]* \| ([\d.]+ ± [\d.]+) \|", text, re.M)
    printed = {(method, other): mean for method, other, mean in lines}
    found = {}
    for row in panel_of("table_2026_demo").rows:
        assert row.seeds == [0, 1, 2, 3, 4]
        if row.method != "full":
            assert row.rel.estimate is not None
            assert row.rel.estimate.half_width is not None
            of = re.match(r"matched \((\w+)", row.label)
            mean = f"{row.rel.estimate.mean:.1f} ± {row.rel.estimate.half_width:.1f}"
            found[row.method, of[1] if of else ""] = mean
    assert printed == found and len(found) == 31
