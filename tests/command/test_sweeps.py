"""A sweep is composed whole before its first run: from ``-m``, or from an experiment's YAML."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import run as program
from coincide.schema import UserError

EXPERIMENT = """
# @package _global_
hydra:
  mode: MULTIRUN
  sweeper:
    params:
      method: full,random
      seed: 0,1
budget: 0.1
"""


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(program.CONF, tmp_path / "conf")
    (tmp_path / "conf" / "experiment").mkdir(exist_ok=True)
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(EXPERIMENT)
    monkeypatch.setattr(program, "CONF", tmp_path / "conf")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "conf"


def points(*words: str) -> list[tuple[str, int, float]]:
    jobs = program.compose_all(words)
    return [(j.experiment.method.name, j.experiment.seed, j.experiment.budget) for j in jobs]


def test_the_command_line_spans_a_grid() -> None:
    found = points("-m", "method=random,full", "seed=0,1,2", "budget=0.3")
    assert found == [(m, s, 0.3) for m in ("random", "full") for s in (0, 1, 2)]


def test_an_experiment_brings_its_own_grid(conf: Path) -> None:
    assert points("experiment=mine") == [(m, s, 0.1) for m in ("full", "random") for s in (0, 1)]


def test_the_command_line_wins_over_the_experiments_grid(conf: Path) -> None:
    assert points("experiment=mine", "method=coincide", "budget=0.4") == [
        ("coincide", 0, 0.4),
        ("coincide", 1, 0.4),
    ]


def test_commas_without_multirun_are_refused() -> None:
    with pytest.raises(UserError, match="multirun"):
        program.compose_all(["method=random,full"])


def test_a_sweep_with_one_bad_point_runs_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"budget=7\.5 is out of range"):
        program.compose_all(["-m", "budget=0.2,7.5", f"paths.store={tmp_path / 'store'}"])
    assert not (tmp_path / "store").exists()


def test_the_runs_of_a_sweep_know_each_other() -> None:
    jobs = program.compose_all(["-m", "method=el2n,perplexity"])
    assert all(job.experiment.siblings == [j.experiment for j in jobs] for job in jobs)
