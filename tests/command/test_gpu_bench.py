"""bench/gpu.py runs every part on its own, and what it prints follows from what was measured."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from bench import gpu
from bench.gpu_found import Found, fits, until_it_fits


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What the command wrote of all parts in tiny shapes, on a CPU."""
    into = tmp_path_factory.mktemp("gpu") / "gpu.json"
    printed = gpu.main(
        ["--device", "cpu", "--shape", "tiny", "--minutes", "30", "--json", str(into)]
    )
    written = json.loads(into.read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(printed))
    return written


def test_every_part_is_done_and_agrees_with_the_cpu(report: dict) -> None:
    parts = report["parts"]
    assert {name: (p["outcome"], p.get("error")) for name, p in parts.items()} == dict.fromkeys(
        gpu.LIMITS, ("done", None)
    )
    assert sum(gpu.LIMITS.values()) <= 60 * gpu.MINUTES
    told = {name: list(part["compared"].values()) for name, part in parts.items()}
    assert told["features"] + told["train"] == pytest.approx([0, 0], abs=1e-5)
    assert told["kmeans"] == told["knn"] == ["the same bytes"]
    assert told["mmd"] == ["the same order"]
    of = told["evaluate"][0].split(" of ")
    assert of[0] == of[1] and int(of[1]) > 0


def test_figures_are_measured_and_what_cannot_be_known_is_missing(report: dict) -> None:
    parts = {name: part["figures"] for name, part in report["parts"].items()}
    for part, figure in (
        ("features", "rows/s"), ("features", "FLOP/s"), ("train", "examples_per_second"),
        ("evaluate", "gqa, engine, ms a question"), ("evaluate", "mix, (a) / engine"),
        ("kmeans", "seconds"), ("kmeans", "plain Lloyd / ours"), ("knn", "seconds"),
        ("mmd", "a fifth of every cluster instead, seconds"),
    ):  # fmt: skip
        assert parts[part][figure] > 0, (part, figure)
    assert parts["features"]["model FLOP utilisation"] is None  # a CPU has no entry
    assert parts["train"]["model FLOP utilisation"] is None
    assert parts["kmeans"]["mean cosine"] == pytest.approx(
        parts["kmeans"]["plain Lloyd, mean cosine"], abs=1e-3
    )
    assert (
        parts["evaluate"]["gqa, engine, equal to (a)"].split(" of ")[0]
        == (parts["evaluate"]["gqa, (b), equal to (a)"].split(" of ")[1])
    )
    assert report["environment"]["versions"]["torch"] == version("torch")


def test_the_table_has_every_figure_and_the_machine(report: dict) -> None:
    table = gpu.table(report)
    assert f"torch {version('torch')}" in table
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    assert all(line.count("|") == 4 for line in rows)
    assert f"| train | model FLOP utilisation | {gpu.cell(None)} |" in rows
    for name, part in report["parts"].items():
        assert sum(row.startswith(f"| {name} |") for row in rows) == (
            1 + len(part["figures"]) + len(part["compared"]) + len(part.get("cut", []))
        )


def test_a_part_that_hangs_is_stopped_and_keeps_what_it_had(tmp_path: Path) -> None:
    code = "import sys, time; open(sys.argv[1], 'w').write('{\"figures\": {\"a\": 1}}')"
    words = [sys.executable, "-c", f"{code}; time.sleep(600)", str(tmp_path / "found.json")]
    found = gpu.run_limited(words, 3, tmp_path / "found.json")
    assert found["outcome"] == "stopped" and found["figures"] == {"a": 1}


def test_a_part_that_fails_says_why_and_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = gpu.run_limited

    def failing(words: list[str], limit: float, into: Path) -> dict:
        broken = "knn" in words
        code = "raise SystemExit('no | memory')" if broken else "print('fine')"
        return watched([sys.executable, "-c", code], limit, into)

    monkeypatch.setattr(gpu, "run_limited", failing)
    report = gpu.main("--device cpu --shape tiny --only knn mmd".split())
    assert report["parts"]["knn"]["outcome"] == "failed"
    assert "| knn | error | no / memory |" in gpu.table(report)
    assert report["parts"]["mmd"]["outcome"] == "done"
    late = gpu.main("--device cpu --shape tiny --only knn --minutes 0".split())
    assert late["parts"]["knn"]["outcome"] == "no time left"


def test_without_a_gpu_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"sees no GPU.*--device cpu --shape tiny"):
        gpu.main([])
    with pytest.raises(SystemExit, match=r"hours.*--device cpu --shape tiny"):
        gpu.main(["--device", "cpu"])


def test_sizes_that_do_not_fit_are_cut_and_said(tmp_path: Path) -> None:
    assert fits(2.0, 100, 20.0) == 1000
    assert fits(2.0, 100, 200.0, power=2) == 1000
    assert fits(50.0, 100, 20.0) == 100  # it has run already
    found = Found(tmp_path / "found.json")
    assert found.cut("rows", 500, 1000) == 500 and "cut" not in found.held
    assert found.cut("rows", 5000, 1000) == 1000

    def work(size: int) -> int:
        if size > 4:
            raise torch.OutOfMemoryError
        return size

    assert until_it_fits(work, 16, found, "micro-batch") == 4
    told = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["cut"]
    assert told[0] == "rows: 1,000 of 5,000, as many as fit into the time"
    assert [line.split(",")[0] for line in told[1:]] == ["micro-batch: 8", "micro-batch: 4"]
    with pytest.raises(torch.OutOfMemoryError):
        until_it_fits(lambda size: work(5), 1, found, "micro-batch")
