"""Panels -> files: golden text, the same bytes each time, and no text from outside that acts."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from coincide.ledger.evidence import ArtifactShelf
from coincide.ledger.result import Result, Score
from coincide.report.build import build_report
from coincide.report.compare import panels
from coincide.report.figure import series
from coincide.report.formats import comma_separated, latex, markdown
from coincide.report.page import script_hash
from coincide.report.pairs import compare_all
from coincide.report.plots import composition_plot, rel_plot
from coincide.report.records import Panel
from coincide.report.summary import summary_tables
from tests.report.fixture import ledger, result, sweep
from tests.report.shelf import fill

EVIL = '=1+1<script>alert(1)</script>\\input{x}|"$x^{ _[y](z)*`'

# Rel. of coincide: seeds 83.241 and 87.870, so 85.556; one full run, so no interval.
GOLDEN_MD = """\
## tiny on demo, suite demo

| method | budget | examples | seeds | Rel. (%) | attributes | counting | presence | train (s) |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| full | 100% | 4,000 | 1 | 100.0 | 80.0 | 60.0 | 90.0 | 100 |
| coincide (released) | 20% | 800 | 2 | 85.6 | 72.0 ± 25.4 | 42.0 ± 25.4 | 87.0 ± 12.7 | 12 |
| random | 20% | 800 | 1 | – | 60.0 | – | 67.5 | 13 |
"""
GOLDEN_TEX = r"""
\toprule
method & budget & examples & seeds & Rel. (\%) & attributes & counting & presence & train (s) \\
\midrule
full & 100\% & 4,000 & 1 & 100.0 & 80.0 & 60.0 & 90.0 & 100 \\
\midrule
coincide (released) & 20\% & 800 & 2 & 85.6 & 72.0 $\pm$ 25.4 & 42.0 $\pm$ 25.4 & 87.0 $\pm$ 12.7 & 12 \\
random & 20\% & 800 & 1 & -- & 60.0 & -- & 67.5 & 13 \\
\bottomrule
"""  # noqa: E501
GOLDEN_CSV = (
    "demo,tiny,demo,random,,random,0.2,800,1,rel_own,,,,measured\n"
    "demo,tiny,demo,random,,random,0.2,800,1,attributes,60.0,,,measured\n"
    "demo,tiny,demo,random,,random,0.2,800,1,counting,,,,measured\n"
)


def small() -> list[Result]:
    return [
        result("full", 0, (80.0, 60.0, 90.0), budget=1.0, seconds={"train": 100.2}),
        result("coincide", 0, (70.0, 40.0, 86.0), seconds={"train": 11.0}),
        result("coincide", 1, (74.0, 44.0, 88.0), seconds={"train": 13.0}),
        result("random", 0, (60.0, None, 67.5), seconds={"train": 12.6}),
    ]


def hostile() -> list[Result]:
    scores = tuple(replace(s, benchmark=s.benchmark + EVIL) for s in ledger()[0].scores)
    run = result(EVIL, 0, (), composition={EVIL: 800}, scores=scores, data=EVIL, target=EVIL)
    return [*ledger(), replace(run, variant=EVIL, suite=EVIL, commit=EVIL, keys={EVIL: EVIL})]


def _markdown(found: list[Panel]) -> str:
    return markdown(found, [compare_all(panel, ArtifactShelf(None)) for panel in found])


def test_markdown_tells_the_difference_to_random() -> None:
    text = _markdown(panels(ledger()))
    line = "- coincide (released) minus random, 800 examples: Rel. (%) +11.3, 95 % from -4.65 to "
    assert f"{line}+27.2: indistinguishable.\n" in text
    assert "random minus" not in text


def test_markdown_and_latex_read_so() -> None:
    found = panels(small())
    assert GOLDEN_MD in _markdown(found)
    assert GOLDEN_TEX in latex(found)
    assert "python run.py" not in _markdown(found).replace("missing", "")


def test_csv_holds_missing_as_empty_and_the_rest_in_full() -> None:
    text = comma_separated(panels(small()))
    assert GOLDEN_CSV in text
    rows = list(csv.DictReader(io.StringIO(text)))
    rel = next(r for r in rows if r["method"] == "coincide" and r["column"] == "rel_own")
    assert float(rel["mean"]) == pytest.approx(100 * (72 / 80 + 42 / 60 + 87 / 90) / 3, rel=1e-12)


def test_fractions_keep_three_decimals() -> None:
    run = result("random", 0, (), scores=(Score("pope", "f1", 0.8125, 10),))
    assert "| 0.812 |" in _markdown(panels([run]))


def test_json_holds_what_the_tables_show(tmp_path: Path) -> None:
    path = build_report(small(), tmp_path)["json"]
    (panel,) = json.loads(path.read_text())
    rows = {row["method"]: row for row in panel["rows"]}
    assert rows["random"]["missing"] == {"counting": "worker died"}
    assert rows["random"]["scores"]["attributes"]["low"] is None
    assert rows["coincide"]["rel_own"]["columns"] == ["attributes", "counting", "presence"]
    assert rows["coincide"]["runs"][1]["command"].startswith("python run.py method=coincide")


def test_the_same_results_give_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    first = build_report(ledger(), tmp_path / "a")
    second = build_report(ledger()[::-1], tmp_path / "b")
    assert list(first) == ["md", "csv", "tex", "json", "html"]
    for ending in first:
        assert first[ending].read_bytes() == second[ending].read_bytes(), ending
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == sorted(
        f"report.{ending}" for ending in first
    )


def test_the_page_names_versions_commit_keys_and_the_exact_command(tmp_path: Path) -> None:
    words = ["method=random", "budget=0.2", "seed=1", "judge.api_key=hunter2"]
    run = result("random", 1, (1.0, 2.0, 3.0), config={"overrides": words, "api_key": "hunter2"})
    html = build_report([run], tmp_path)["html"].read_text()
    assert "python run.py method=random budget=0.2 seed=1</pre>" in html
    assert "torch 2.14.1" in html
    assert "subset/random-0.2-000000000001" in html
    assert "attributes: exact_match; demo, greedy; 200 samples." in html
    assert "python run.py method=full seed=1" in html
    assert not any("hunter2" in path.read_text() for path in tmp_path.iterdir())


def test_the_page_shows_published_numbers_of_the_same_data_and_target(tmp_path: Path) -> None:
    run = result("random", 0, (1.0, 2.0, 3.0), data="llava", target="llava_1_5_7b")
    assert "arXiv 2605.26004" in build_report([run], tmp_path)["html"].read_text()
    assert "arXiv 2605.26004" not in build_report(ledger(), tmp_path)["html"].read_text()


def test_the_policy_allows_the_one_script_by_its_hash(tmp_path: Path) -> None:
    html = build_report(hostile(), tmp_path)["html"].read_text()
    scripts = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    assert len(scripts) == 1
    assert f"script-src '{script_hash(scripts[0])}'" in html
    assert "default-src 'none'" in html
    assert not re.search(r'(?:src|href)="(?!#|data:)', html)


def test_text_from_outside_is_inert_in_every_format(tmp_path: Path) -> None:
    paths = build_report(hostile(), tmp_path)
    assert "<script>alert" not in paths["html"].read_text()
    tex = "\n".join(x for x in paths["tex"].read_text().splitlines() if not x.startswith("%"))
    assert "\\input" not in tex
    assert not re.search(r"(?<!\\)\$(?!\\pm\$)(?<!\\pm\$)|(?<!\\)_|\\\\\s*[\[*]", tex)
    table = [x for x in paths["md"].read_text().splitlines() if x.startswith("| =1")]
    assert table
    assert not re.search(r"(?<!\\)[<>$`*]", table[0])
    assert len(re.findall(r"(?<!\\)\|", table[0])) == table[0].count(" | ") + 2
    cells = [c for row in csv.reader(paths["csv"].open(newline="")) for c in row]
    assert not any(c.startswith("=") for c in cells)


def test_plots_are_wellformed_and_take_any_label() -> None:
    found = panels([*hostile(), result("_hidden", 0, (50.0, 40.0, 60.0))])
    places = series(found)
    for panel in found:
        for text in (rel_plot(panel, places), composition_plot(panel)):
            if text:
                ET.fromstring(text.replace("xlink:href", "href"))
    demo = next(panel for panel in found if panel.data == "demo")
    assert "_hidden" in rel_plot(demo, places)


def test_a_method_keeps_its_colour_in_every_panel() -> None:
    here = panels(sweep(methods=5))
    both = panels([*sweep(methods=5), *(replace(r, data="other") for r in ledger())])
    assert series(here)["random"] == series(both)["random"] == 1


def test_sources_beyond_the_dozen_are_added_up() -> None:
    many = {f"task_{i:02d}": i + 1 for i in range(39)}
    run = result("random", 0, (1.0, 2.0, 3.0), composition={**many, "rest": 20})
    text = composition_plot(panels([run])[0])
    assert "29 smaller sources" in text
    assert "task_38" in text
    assert "task_00" not in text


@pytest.mark.slow
def test_sixty_runs_and_ten_thousand_clusters_make_a_page_below_12_mb(tmp_path: Path) -> None:
    """With photographs, not the demo's tiny pictures: their bytes are what the limit is for."""
    results = sweep(methods=9, budgets=(0.1, 0.2, 0.4), seeds=2)
    assert len(results) == 56
    runs = fill(tmp_path / "store", results, samples=60, clusters=10_000, rows=12_000, side=160)
    page = build_report(runs, tmp_path, tmp_path / "store")["html"]
    text = page.read_text()
    assert 2_000_000 < page.stat().st_size < 12_000_000
    assert text.count('<details class="run">') == 56
    clusters = re.search(r'id="clusters-data-1">([^<]+)<', text)
    assert clusters is not None
    shown = json.loads(gzip.decompress(base64.b64decode(clusters[1])))
    assert len(shown["examples"]) == 10_000
    assert sum(len(e) for e in shown["examples"]) == 10_000


def test_an_empty_ledger_says_what_to_do(tmp_path: Path) -> None:
    assert "python run.py" in build_report([], tmp_path)["html"].read_text()


def test_the_terminal_shows_a_table_per_panel() -> None:
    from rich.console import Console

    console = Console(width=200, record=True, file=io.StringIO())
    for table in summary_tables([*ledger(), result("[red]x", 0, (1.0, None, 3.0))]):
        console.print(table)
    text = console.export_text()
    assert re.search(r"\[red\]x\s+20%\s+800\s+1\s+\S+\s+1.0\s+–\s+3.0", text)
    assert re.search(r"coincide \(released\)\s+20%\s+800\s+2\s+88.7 ± \d+.\d\s+72.0\s+52.0", text)
