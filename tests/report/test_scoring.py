"""How many replies could be read, and the lenient reading, in every form of the report."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from coincide.ledger.evidence import Samples
from coincide.ledger.files import read_ledger, write_result
from coincide.ledger.result import Result
from coincide.report.__main__ import main
from coincide.report.build import build_report
from coincide.report.compare import panels
from coincide.report.scoring import UNKNOWN, by_scoring
from coincide.report.summary import summary_tables
from coincide.schema import UserError
from tests.report.fixture import ledger


def told(results: list[Result], odd: str = "coincide") -> list[Result]:
    """With shares of replies read, lower for one method, and lenient scores of two benchmarks."""
    found = []
    for result in results:
        share = 0.83 if result.method == odd else 0.995
        first, *others = result.scores
        first = replace(first, readable=share, lmms_eval=99.0 if result.method == odd else None)
        scores = (first, *(replace(s, readable=1.0) for s in others))
        lenient = tuple(
            replace(s, value=(s.value or 0) + 5, protocol="demo, greedy; scoring=lenient",
                    readable=1.0, lmms_eval=None)
            for s in scores[:2]
        )  # fmt: skip
        found.append(replace(result, scores=scores, lenient=lenient))
    return found


def test_shares_and_lenient_scores_survive_the_ledger(tmp_path: Path) -> None:
    [before] = told(ledger()[:1])
    path = write_result(tmp_path, before)
    assert read_ledger(tmp_path) == [replace(before, config=read_ledger(tmp_path)[0].config)]
    old = json.loads(path.read_text())
    del old["lenient"], old["sha256"]
    for score in old["scores"]:
        del score["readable"], score["lmms_eval"]
    path.write_text(json.dumps(old))
    [read] = read_ledger(tmp_path)
    assert read.lenient == () and {s.readable for s in read.scores} == {None}


@pytest.mark.parametrize("value", ["much", [1], True])
def test_a_share_that_is_no_number_is_refused(tmp_path: Path, value: object) -> None:
    path = write_result(tmp_path, told(ledger()[:1])[0])
    record = json.loads(path.read_text())
    record["lenient"][0]["readable"] = value
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"lenient\[0\]\.readable"):
        read_ledger(tmp_path)


def test_every_format_shows_the_share_and_the_other_figure(tmp_path: Path) -> None:
    paths = build_report(told(ledger()), tmp_path)
    text = {ending: path.read_text() for ending, path in paths.items()}
    assert "72.0 ± 25.4, read 83.0%" in text["md"] and ", read 99.5%" in text["md"]
    assert "lmms\\_eval (its own figure): coincide" in text["md"]
    assert "<small>read 83.0%</small>" in text["html"]
    rows = list(csv.DictReader(text["csv"].splitlines()))
    [read] = {r["read"] for r in rows if r["method"] == "coincide" and r["column"] == "attributes"}
    assert float(read) == pytest.approx(0.83)
    by_label = {row["method"]: row for row in json.loads(text["json"])[0]["rows"]}
    assert by_label["coincide"]["readable"]["attributes"] == pytest.approx(0.83)
    assert by_label["coincide"]["lmms_eval"] == {"attributes": {"0": 99.0, "1": 99.0}}
    assert "lmms_eval" not in by_label["random"]
    [table] = summary_tables(told(ledger()))
    cells = [list(column.cells) for column in table.columns]
    assert "72.0 (83.0%)" in [str(cell) for column in cells for cell in column]
    assert str(table.columns[-1].header) == "read"


def test_a_ledger_without_shares_shows_none(tmp_path: Path) -> None:
    paths = build_report(ledger(), tmp_path)
    for ending in ("md", "csv", "tex"):
        assert not re.search(r"\bread\b", paths[ending].read_text(), re.IGNORECASE), ending
    assert "<small>read" not in paths["html"].read_text()
    assert str(summary_tables(ledger())[0].columns[-1].header) == "presence"


def test_rows_that_answer_in_another_form_are_noted() -> None:
    [panel] = panels(told(ledger()))
    [note] = [n for n in panel.notes if "could be read" in n.text]
    assert note.text.startswith("attributes") and "coincide" in note.text and "83.0%" in note.text
    assert "random" not in note.text and "scoring=lenient" in note.command
    [even] = panels(told(ledger(), odd=""))
    assert not [n for n in even.notes if "could be read" in n.text]


def test_the_lenient_reading_is_a_report_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for result in told(ledger()):
        write_result(tmp_path / "ledger", result)
    words = [str(tmp_path / "ledger"), "--out", str(tmp_path / "out"), "--store", str(tmp_path)]
    assert main(words) == 0
    strict = (tmp_path / "out" / "report.md").read_text()
    assert main([*words, "scoring=lenient"]) == 0
    lenient = (tmp_path / "out" / "report-lenient.md").read_text()
    assert (tmp_path / "out" / "report.md").read_text() == strict
    assert "| 77.0 ± 25.4" in lenient and "| 72.0 ± 25.4" in strict
    assert "suite demo, lenient reading" in lenient and "scoring=lenient" in lenient
    assert UNKNOWN in lenient, "presence has no lenient score"
    assert main([*words, "--scoring", "loose"]) == 2
    assert "strict, lenient" in capsys.readouterr().err


def test_strict_and_lenient_are_never_one_panel() -> None:
    results = told(ledger())
    both = panels([*by_scoring(results, "strict"), *by_scoring(results, "lenient")])
    assert [panel.suite for panel in both] == ["demo", "demo, lenient reading"]
    for panel in both:
        assert len({panel.column("attributes").protocol}) == 1
        full = next(row for row in panel.rows if row.method == "full")
        assert full.rel.estimate and full.rel.estimate.mean == 100.0
    assert by_scoring(ledger(), "lenient")[0].scores[0].value is None, "missing stays missing"


def test_lenient_samples_are_read_by_their_own_columns(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    rows = [
        {"doc_id": 0, "score": 0.0, "num": 0.0, "den": 1.0, "lenient": 1.0, "lenient_num": 2.0,
         "lenient_den": 2.0},
        {"doc_id": 1, "score": 1.0},
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    strict, lenient = Samples(path).numbers, Samples(path, "lenient").numbers
    assert strict["score"].tolist() == [0.0, 1.0] and strict["den"].tolist() == [1.0, 1.0]
    assert lenient["doc_id"].tolist() == [0], "a sample without a lenient score has none"
    assert (lenient["num"].tolist(), lenient["den"].tolist()) == ([2.0], [2.0])
