"""What the command line refuses, at once, with the choices, and with nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest

import run as program
from coincide.checks.needs import gather
from tests.command.conftest import Run


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["bugdet=0.2"], "unknown key 'bugdet'.*Did you mean budget"),
        (
            ["method.temprature=1"],
            "unknown key 'method.temprature'.*Did you mean method.temperature",
        ),
        (["features.batch=3"], "unknown key 'features.batch'.*batch_size, batch_tokens"),
        (["method=coincid"], "Could not find 'method/coincid'.*coincide"),
        (["stages=[select,trian]"], "trian; the choices are features, select, train"),
        (["budget=0"], "budget=0 is out of range"),
        (["budget=-0.1"], "budget=-0.1 is out of range"),
        (["budget=nan"], "budget=nan is out of range"),
        (["budget=1.5"], "budget=1.5 is out of range"),
        (["budget=800.0"], "Did you mean the count budget=800"),
        (["seed=-1"], "seed=-1: expected an int >= 0"),
        (["-m", "method=random", "budget=0.2,7.5"], "budget=7.5 is out of range"),
        (["method=from_file"], "method.path"),
        (["method=from_file", "method.path=nowhere.json"], "no such file"),
        (["method.variant=other"], "variant.*released"),
        (["targets=null"], "To choose none of a group leave it out with ~, e.g. ~targets"),
        (["~method"], "method: none is chosen. The choices are clip_score, coido, coincide"),
        (["~launcher"], "launcher: none is chosen. The choices are local"),
        (["train.global_batch=10", "train.micro_batch=16"], "global_batch"),
    ],
)
def test_refused_with_the_choices(
    run: Run, tmp_path: Path, words: list[str], expected: str
) -> None:
    import re

    found = run(*words)
    assert found.returncode != 0
    message = re.sub(r"\s+", " ", found.stderr)
    assert re.search(expected, message), message
    assert "Traceback" not in found.stderr
    assert not (tmp_path / "store").exists()


def test_dry_run_prints_the_plan_and_runs_nothing(run: Run, tmp_path: Path) -> None:
    found = run("dry_run=true")
    assert found.returncode == 0, found.stderr
    for word in ("features", "subset/coincide", "adapter/", "eval/", "build"):
        assert word in found.stdout
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("method", ["presel", "matched", "self_filter", "icons"])
def test_what_is_missing_is_listed_whole(method: str, tmp_path: Path) -> None:
    """Also by methods that look at another subset or at a target finetuned first, whose steps need
    the number of rows of data that is not there."""
    words = [f"paths.{name}={tmp_path / name}" for name in ("data", "store", "ledger")]
    (job,) = program.compose_all(["data=llava", f"method={method}", "targets=demo", *words])
    found = gather([(job.experiment, job.stages)])
    lacking = {group for group, requirement in found if not requirement.met}
    assert {"data", "target", "eval"} <= lacking
    assert len([name for group, name in found if group == "data"]) > 2, "pictures too"
