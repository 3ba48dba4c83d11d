"""No credential reaches the disk through a sweep; its jobs have it all the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

import run as program
from coincide.schema import UserError
from launch.frozen import freeze, read
from launch.jobs import Job
from launch.sweep import freeze_sweep
from tests.command.conftest import ROOT, environment
from tests.launch.conftest import Compose

PIN = "hunter2-correct-horse"
TYPED = f"https://me:{PIN}@judge.example.org/v1?sig={PIN}&deployment=a"
JUDGE = "+eval.judge={_target_: eval.judge.Judge, url: '%s', model: m}"


@pytest.fixture(autouse=True)
def _variables_of_its_own() -> Any:
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]


def frozen(job: Job, tmp_path: Path) -> str:
    freeze(job, tmp_path / "run.yaml", tmp_path)
    return (tmp_path / "run.yaml").read_text()


def judge_url(path: Path) -> str:
    found: str = program.make_job(read(path).cfg, []).experiment.suite.judge.url
    return found


def test_what_was_typed_is_handed_on_by_the_environment(compose: Compose, tmp_path: Path) -> None:
    (job,) = compose(JUDGE % TYPED)
    text = frozen(job, tmp_path)
    assert PIN not in text and "${oc.env:COINCIDE_EVAL_JUDGE_URL_" in text
    assert (tmp_path / "run.yaml").stat().st_mode & 0o777 == 0o600
    assert judge_url(tmp_path / "run.yaml") == TYPED


def test_a_job_without_the_variable_says_which(compose: Compose, tmp_path: Path) -> None:
    (job,) = compose(JUDGE % TYPED)
    frozen(job, tmp_path)
    words = [sys.executable, str(ROOT / "run.py"), f"frozen={tmp_path / 'run.yaml'}"]
    env = {k: v for k, v in environment().items() if not k.startswith("COINCIDE_")}
    said = subprocess.run(words, env=env, capture_output=True, text=True, cwd=tmp_path)
    assert said.returncode == 2 and "Traceback" not in said.stderr
    assert "COINCIDE_EVAL_JUDGE_URL_" in said.stderr and "set it as it was" in said.stderr


def test_references_stay_references(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_URL", TYPED)
    monkeypatch.setenv("DEMO_ROWS", "260")
    monkeypatch.setenv("SCRATCH", str(tmp_path / "scratch"))
    (job,) = compose(
        JUDGE % "${oc.env:JUDGE_URL}",
        "data.n='${oc.decode:${oc.env:DEMO_ROWS}}'",
        "paths.store=${oc.env:SCRATCH}/store",
    )
    text = frozen(job, tmp_path)
    assert PIN not in text
    content = OmegaConf.to_container(OmegaConf.load(tmp_path / "run.yaml"))
    assert isinstance(content, dict)
    assert content["config"]["eval"]["judge"]["url"] == "${oc.env:JUDGE_URL}"
    assert content["config"]["paths"]["store"] == str(tmp_path / "scratch" / "store")
    assert program.make_job(read(tmp_path / "run.yaml").cfg, []).experiment.source == (
        job.experiment.source
    )
    monkeypatch.setenv("JUDGE_URL", "https://judge.example.org/rotated?sig=x1")
    assert judge_url(tmp_path / "run.yaml").endswith("rotated?sig=x1")
    monkeypatch.setenv("DEMO_ROWS", "280")
    with pytest.raises(UserError, match="'DEMO_ROWS' has another value here"):
        read(tmp_path / "run.yaml")


def test_a_secret_variable_is_a_reference_in_the_ledger_too(
    compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_TOKEN", "plain")
    monkeypatch.setenv("JUDGE_MODEL", "gpt-x")
    (job,) = compose(
        "+eval.judge={model: '${oc.env:JUDGE_MODEL}', key_env: '${oc.env:JUDGE_TOKEN}'}"
    )
    judge = job.experiment.config["eval"]["judge"]
    assert judge == {"model": "gpt-x", "key_env": "${oc.env:JUDGE_TOKEN}"}


def test_the_sweeps_folder_has_no_credential(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["-m", "method=random,full", JUDGE % TYPED, "launcher=processes"]
    monkeypatch.setattr(sys, "argv", ["run.py", *words])
    sweep = freeze_sweep(compose(*words), tmp_path)
    kept = [path for path in sweep.path.rglob("*") if path.is_file()]
    assert len(kept) == 3
    for path in kept:
        assert PIN not in path.read_text()
        assert path.stat().st_mode & 0o777 == 0o600
    assert "judge.example.org/v1?sig=" in sweep.record()["command"]


def test_text_that_looks_like_a_reference_stays_text(compose: Compose, tmp_path: Path) -> None:
    (job,) = compose("data.name='\\${oc.env:HOME}'")
    frozen(job, tmp_path)
    assert job.experiment.source.name == "${oc.env:HOME}"
    again = program.make_job(read(tmp_path / "run.yaml").cfg, [])
    assert again.experiment.source.name == "${oc.env:HOME}"
