"""``run.py logger=...`` and ``python -m coincide.dashboard``, as a user calls them."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import run as program
from coincide.ledger.files import read_ledger
from coincide.schema import UserError
from tests.command.conftest import ROOT, SMALL, command, environment
from tests.track.reader import offline_runs
from track.compared import compare_with_ledger

SELECT = "stages=[features,select]"


def call(*words: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, cwd=cwd, env={**environment(), **variables}, capture_output=True, text=True,
        timeout=500,
    )  # fmt: skip


def dashboard(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return call(sys.executable, "-m", "coincide.dashboard", *words, cwd=cwd)


@pytest.mark.slow
def test_a_sweep_offline_then_replayed_writes_nothing_anew(tmp_path: Path) -> None:
    sweep = ("-m", "method=el2n,full", "budget=0.1", *SMALL)
    found = call(*command(*sweep, "logger=wandb_offline"), cwd=tmp_path)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "warning" not in found.stderr
    runs = offline_runs(tmp_path)
    assert sorted(run.job_type for run in runs.values()) == sorted(
        ["select", "train", "evaluate"] * 2
    )
    assert len({run.group for run in runs.values()}) == 1
    evaluated = {run.config["ledger"]: run for run in runs.values() if run.job_type == "evaluate"}
    among = compare_with_ledger(read_ledger(tmp_path / "ledger"))  # the full run came last
    assert {name: run.summary.get("rel") for name, run in evaluated.items()} == {
        name: found.rel for name, found in among.items()
    }
    again = dashboard("sync", "logger=wandb_offline", cwd=tmp_path)
    assert "0 runs written, 6 were there already" in again.stdout, again.stdout + again.stderr
    one = dashboard("sync", "logger=wandb_offline", "method=el2n", "logger.dir=new", cwd=tmp_path)
    assert "1 results: 3 runs written" in one.stdout, one.stdout + one.stderr
    assert {run.config["method_name"] for run in offline_runs(tmp_path / "new").values()} == {
        "el2n"
    }


@pytest.mark.slow
def test_a_server_that_does_not_answer_costs_a_run_nothing_but_the_wait(tmp_path: Path) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(64)
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        words = (*SMALL, "method=random", SELECT, "logger=wandb", "logger.timeout=3")
        account = {"WANDB_BASE_URL": url, "WANDB_API_KEY": "0" * 40}
        found = call(*command(*words), cwd=tmp_path, **account)
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stderr.count("warning: wandb was not written") == 1
    assert list((tmp_path / "store" / "subset").glob("random-*/rows.npy"))


@pytest.mark.slow
def test_a_run_that_fails_in_training_has_left_its_selection(tmp_path: Path) -> None:
    words = (*SMALL, "method=random", "logger=wandb_offline", "stages=[select,train]")
    assert call(*command(*words, "train.lr=1e38"), cwd=tmp_path).returncode != 0
    (run,) = offline_runs(tmp_path).values()
    assert run.job_type == "select"
    assert run.config["method_name"] == "random"


def test_wandb_is_not_imported_unless_asked_for() -> None:
    code = (
        "import json, sys, run; run.compose_all([]);"
        "print(json.dumps([m for m in sys.modules if m.split('.')[0].startswith('wandb')]))"
    )
    found = call(sys.executable, "-c", code, cwd=ROOT)
    assert json.loads(found.stdout) == [], found.stderr


def test_sync_of_an_empty_ledger_says_so(tmp_path: Path) -> None:
    found = dashboard("sync", cwd=tmp_path)
    assert found.returncode == 2
    assert "the ledger ledger is empty" in found.stderr


def test_dashboard_without_an_action_shows_its_use(tmp_path: Path) -> None:
    found = dashboard(cwd=tmp_path)
    assert found.returncode == 2
    assert "sync | create" in found.stdout


@pytest.mark.parametrize(
    ("word", "match"),
    [
        ("logger.mode=on", r"logger\.mode='on'; the choices are off, online, offline"),
        ("logger.project=a/b", r"logger\.project='a/b'"),
        ("logger.timeout=0", r"logger\.timeout=0"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_refused_before_anything_runs(word: str, match: str) -> None:
    with pytest.raises(UserError, match=match):
        program.compose_all([word])


def test_the_runs_of_a_sweep_share_the_group_that_the_ledger_records() -> None:
    jobs = program.compose_all(["-m", "method=random,full", "seed=0,1"])
    assert len({job.experiment.config["group"] for job in jobs}) == 1
    (named,) = program.compose_all(["logger.group=mine"])
    assert named.experiment.config["group"] == "mine"
