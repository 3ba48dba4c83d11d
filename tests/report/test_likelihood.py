"""``score=likelihood``: a report of its own, from its own samples, never beside accuracy."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from coincide.ledger.evidence import LIKELIHOOD, Samples
from coincide.ledger.files import read_ledger, write_result
from coincide.ledger.result import Result
from coincide.report.__main__ import main
from coincide.report.compare import panels
from coincide.report.scoring import NOT_RECORDED, by_scoring
from coincide.schema import UserError
from tests.report.fixture import ledger

SAID = "demo, greedy; score=likelihood of the answer per token"


def likely(results: list[Result]) -> list[Result]:
    """With likelihoods of two benchmarks that are half of accuracy in per cent."""
    return [
        replace(r, likelihood=tuple(
            replace(s, metric=metric, value=(s.value or 0) / 200, protocol=SAID)
            for s in r.scores[:2] for metric in ("likelihood", "nats")
        ))
        for r in results
    ]  # fmt: skip


def test_they_survive_the_ledger_and_old_ones_have_none(tmp_path: Path) -> None:
    [before] = likely(ledger()[:1])
    path = write_result(tmp_path, before)
    assert read_ledger(tmp_path)[0].likelihood == before.likelihood
    old = json.loads(path.read_text())
    del old["likelihood"], old["sha256"]
    path.write_text(json.dumps(old))
    assert read_ledger(tmp_path)[0].likelihood == ()


def test_the_report_of_likelihoods_is_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for result in likely(ledger()):
        write_result(tmp_path / "ledger", result)
    words = [str(tmp_path / "ledger"), "--out", str(tmp_path / "out"), "--store", str(tmp_path)]
    assert main(words) == 0
    accuracy = (tmp_path / "out" / "report.md").read_text()
    assert main([*words, "score=likelihood"]) == 0
    text = (tmp_path / "out" / "report-likelihood.md").read_text()
    assert (tmp_path / "out" / "report.md").read_text() == accuracy and "0.360" not in accuracy
    assert "suite demo, likelihood" in text and "0.360 ± 0.127" in text and SAID in text
    assert NOT_RECORDED in text, "presence has none"
    assert main([*words, "score=accuracy", "scoring=strict"]) == 0
    for wrong, said in (("score=loud", "accuracy, likelihood"), ("scoring=x", "strict, lenient")):
        assert main([*words, wrong]) == 2
        assert said in capsys.readouterr().err
    assert main([*words, "score=likelihood", "scoring=lenient"]) == 2
    assert "not read off a reply" in capsys.readouterr().err


def test_accuracy_and_likelihood_are_never_one_panel() -> None:
    results = likely(ledger())
    both = panels([*by_scoring(results, "strict"), *by_scoring(results, LIKELIHOOD)])
    assert [panel.suite for panel in both] == ["demo", "demo, likelihood"]
    assert {column.metric for column in both[1].columns} == {"likelihood"}
    full = next(row for row in both[1].rows if row.method == "full")
    assert full.rel.estimate and full.rel.estimate.mean == 100.0
    assert by_scoring(ledger(), LIKELIHOOD)[0].scores[0].value is None, "missing stays missing"
    with pytest.raises(UserError, match="the choices are"):
        by_scoring(results, "loose")


def test_samples_are_scored_by_the_probability_of_a_token(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    rows = [
        {"doc_id": 0, "score": 0.0, "num": 9.0, "den": 3.0, "stratum": "x", "nats": math.log(4)},
        {"doc_id": 1, "score": 1.0},
        {"doc_id": 2, "score": None, "nats": 1.0},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    numbers = Samples(path, LIKELIHOOD).numbers
    assert numbers["doc_id"].tolist() == [0] and numbers["score"].tolist() == [0.25]
    assert (numbers["num"].tolist(), numbers["den"].tolist()) == ([0.25], [1.0])
    assert numbers["stratum"].tolist() == [""]
    assert Samples(path).numbers["num"].tolist() == [9.0, 1.0], "accuracy is what it was"


def test_samples_with_alternatives_are_scored_against_the_likeliest_other(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    rows = [
        {"doc_id": 0, "score": 0.0, "nats": 9.0, "margin": math.log(3)},
        {"doc_id": 1, "score": 1.0, "nats": 9.0, "margin": -2000.0},
        {"doc_id": 2, "score": None, "nats": 1.0},
        {"doc_id": 3, "score": 1.0},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    numbers = Samples(path, LIKELIHOOD).numbers
    assert numbers["doc_id"].tolist() == [0, 1]
    assert numbers["score"].tolist() == pytest.approx([0.75, 0.0])
    rows[1]["margin"] = None  # one without: all by the probability of a token
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = Samples(path, LIKELIHOOD).numbers["score"]
    assert found.tolist() == pytest.approx([math.exp(-9)] * 2)
