"""Ledger -> numbers -> page: right, repeatable, inert, and never inventing a score."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from coincide.report.build import build_report
from coincide.report.compare import panels
from coincide.report.ledger import read_ledger, write_result
from coincide.report.statistics import estimate, relative
from coincide.report.tables import cells, comma_separated, latex, markdown
from coincide.schema import UserError
from tests.report.fixture import ledger, result


def test_the_interval_is_students() -> None:
    """Values 1, 2, 3: s = 1, t(2, 0.975) = 4.302653, half width t / sqrt(3) = 2.484138."""
    found = estimate([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.half_width == pytest.approx(2.484138, abs=1e-6)
    assert estimate([5.0]).half_width is None


def test_relative_performance_by_hand() -> None:
    found = relative([{"a": 50.0, "b": 30.0}], {"a": 100.0, "b": 40.0})
    assert found.estimate is not None
    assert found.estimate.mean == pytest.approx((50 + 75) / 2)
    partial = relative([{"a": 50.0}], {"a": 100.0, "b": 40.0})
    assert partial.columns == ("a",)
    assert partial.left_out == {"b": "no score"}


def test_rel_is_against_our_own_full_run() -> None:
    (panel,) = panels(ledger())
    rel = {(row.method, row.budget): row.rel.estimate for row in panel.rows}
    # full means over its seeds: 82, 62, 92
    expected = [100 * (v / f) for v, f in zip((72, 52, 87), (82, 62, 92), strict=True)]
    found = rel[("coincide", 0.2)]
    assert found is not None
    assert found.mean == pytest.approx(sum(expected) / 3)
    assert rel[("full", 1.0)] is not None
    assert [row.method for row in panel.rows] == ["full", "coincide", "random", "random"]


def test_one_seed_has_no_interval_and_no_full_run_no_rel() -> None:
    (panel,) = panels([result("random", 0, (60.0, 40.0, 80.0))])
    texts = cells(panel, panel.rows[0])
    assert texts[4] == "–"
    assert texts[5] == "60.0"
    assert "python run.py method=full" in panel.warnings[0]


def test_a_missing_score_stays_missing() -> None:
    runs = [*ledger(), result("el2n", 0, (50.0, None, 70.0))]
    (panel,) = panels(runs)
    row = next(row for row in panel.rows if row.method == "el2n")
    assert row.missing == {"counting": "worker died"}
    assert cells(panel, row)[6] == "–"
    assert row.rel.columns == ("attributes", "presence")


def test_another_protocol_is_never_mixed_in() -> None:
    odd = result("el2n", 0, (50.0, 50.0, 70.0))
    scores = (replace(odd.scores[0], protocol="with OCR tokens"), *odd.scores[1:])
    (panel,) = panels([*ledger(), replace(odd, scores=scores)])
    row = next(row for row in panel.rows if row.method == "el2n")
    assert "another protocol" in row.missing["attributes"]


def test_a_rerun_replaces_the_older_result_of_the_same_seed() -> None:
    newer = replace(result("random", 0, (1.0, 1.0, 1.0)), created="2027-01-01T00:00:00Z")
    (panel,) = panels([*ledger(), newer])
    row = next(row for row in panel.rows if row.method == "random" and row.budget == 0.2)
    assert row.scores["attributes"].values == (1.0, 64.0)


def test_ledger_round_trip_without_secrets(tmp_path: Path) -> None:
    for item in ledger():
        write_result(tmp_path, item)
    found = read_ledger(tmp_path)
    assert {(r.method, r.budget, r.seed) for r in found} == {
        (r.method, r.budget, r.seed) for r in ledger()
    }
    assert "hunter2" not in "".join(p.read_text() for p in tmp_path.iterdir())


def test_a_malformed_file_is_named(tmp_path: Path) -> None:
    path = write_result(tmp_path, ledger()[0])
    record = json.loads(path.read_text())
    del record["seed"]
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=rf"{path.name}.*lacks the field 'seed'"):
        read_ledger(tmp_path)


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    first = build_report(ledger(), tmp_path / "a")
    second = build_report(ledger()[::-1], tmp_path / "b")
    for ending in ("md", "csv", "tex", "json", "html"):
        assert first[ending].read_bytes() == second[ending].read_bytes(), ending


def test_formats_agree(tmp_path: Path) -> None:
    found = panels(ledger())
    assert "72.0 ± 25.4" in markdown(found)
    assert r"72.0 $\pm$ 25.4" in latex(found)
    line = next(
        x
        for x in comma_separated(found).splitlines()
        if "coincide,released" in x and ",attributes," in x
    )
    assert line.split(",")[-3] == "72.0"


def test_untrusted_text_is_inert(tmp_path: Path) -> None:
    evil = r'<script>alert(1)</script>\input{x}|"'
    run = replace(result(evil, 0, (1.0, 2.0, 3.0)), composition={evil: 800})
    paths = build_report([*ledger(), run], tmp_path)
    html = paths["html"].read_text()
    assert "<script" not in html
    assert "default-src 'none'" in html
    assert r"\input" not in paths["tex"].read_text()
    assert "<script" not in paths["md"].read_text().replace(r"\<script", "")


def test_an_empty_ledger_says_what_to_do(tmp_path: Path) -> None:
    assert "python run.py" in build_report([], tmp_path)["html"].read_text()
