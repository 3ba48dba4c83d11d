"""Sweeps of the shrunk demo on a real SLURM, through ``run.py`` as a user calls it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

import run as program
from launch import cluster
from launch.snapshot import snapshot
from launch.states import Status, statuses
from launch.sweep import Sweep, Task, freeze_sweep
from tests.command.conftest import SMALL
from tests.slurm.conftest import Cheap, wait_for

pytestmark = pytest.mark.slow
LITTLE = ("cpus=1", "memory_gb=0.9", "time=00:20:00")
SLURM = (
    "launcher=slurm",
    "launcher.gpu.gpus=1",
    "launcher.failures=1",
    *(f"launcher.{kind}.{word}" for kind in ("gpu", "cpu") for word in LITTLE),
)


class Project:
    """A copy of the project, which a user edits while jobs wait, with its store and sweeps."""

    def __init__(self, folder: Path) -> None:
        self.path = snapshot(folder).rename(folder / "project")

    def run(self, *words: str) -> str:
        """What the command says."""
        done = subprocess.run(
            [sys.executable, "run.py", *SMALL, *SLURM, *words],
            cwd=self.path, capture_output=True, text=True, timeout=300,
            env={**os.environ, "PYTHONPATH": "", "COLUMNS": "200"},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def sweep(self, said: str) -> Sweep:
        """The sweep whose submission was told."""
        return Sweep(Path(said.split("python -m launch.status ")[1].split()[0]))

    def ended(self, sweep: Sweep) -> dict[str, Status]:
        def over() -> list[Status] | None:
            found = statuses(sweep, cluster.queue())
            return None if any(s.state in ("queued", "running") for s in found) else found

        return {status.task.name: status for status in wait_for(over)}

    def edit(self, file: str, text: str) -> None:
        path = self.path / file
        path.write_text(path.read_text() + text)

    def restore(self) -> None:
        again = snapshot(self.path.parent)
        shutil.copytree(again, self.path, dirs_exist_ok=True)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("user"))


def nodes(state: str) -> None:
    subprocess.run(
        ["scontrol", "update", "nodename=127.0.0.1,n2", f"state={state}", "reason=test"], check=True
    )


def urgent() -> None:
    """A job for which everything else has to give way."""
    words = ["--partition=urgent", "--nodes=2", "--exclusive", "--mem=1", "--output=/dev/null"]
    subprocess.run(["sbatch", *words, "--wrap=sleep 1"], check=True, capture_output=True)


SWEEP = ("-m", "method=random,el2n", "train.zero_stage=0", "train.epochs=4")
MORE = ("-m", "method=random", "seed=0,2", "stages=[select]")
"""Stands on the same data, and has one run in common with the first."""


def test_a_sweep_is_frozen_survives_preemption_and_does_nothing_twice(project: Project) -> None:
    nodes("drain")
    sweep = project.sweep(project.run(*SWEEP))
    waiting = [job for job in cluster.queue().values() if job.comment.startswith(str(sweep.path))]
    assert Counter(job.state for job in waiting) == {"PENDING": len(waiting)}
    assert "0 jobs submitted" in project.run(*SWEEP)  # all are on their way
    more = project.run(*MORE)
    assert "1 jobs submitted" in more and f"job {waiting_for(sweep, 'data')}" in more

    # the current folder is the project: nothing of what follows may be imported from there
    for file in ("run.py", "launch/supervise.py", "train/worker.py", "coincide/store/store.py"):
        project.edit(file, "\nraise SystemExit('edited')\n")
    (project.path / "conf" / "train" / "demo.yaml").write_text("edited: true")
    nodes("resume")

    task, ranks = hold_a_training(project, sweep)
    urgent()
    wait_for(lambda: any(event["event"] == "signal" for event in task.history()))
    for rank in ranks:
        os.kill(rank, signal.SIGCONT)
    found = project.ended(sweep)
    logs = {name: Path(status.task.log).read_text() for name, status in found.items()}
    assert {status.state for status in found.values()} == {"done"}, logs
    assert found[task.name].attempts == 2
    assert "train: resumed at step" in logs[task.name]
    assert sum("features: " in log for log in logs.values()) == 1
    assert Counter(s.task.kind for s in found.values()) == {
        "data": 1, "model": 2, "features": 1, "scores": 1, "subset": 2, "adapter": 2, "report": 1,
    }  # fmt: skip
    assert asked_for_gpus(found) == {"features": 1, "adapter": 2}
    assert len(list((project.path / "ledger").glob("*.json"))) == 2
    assert (project.path / "reports" / "report.html").is_file()
    assert {json.loads(p.read_text())["commit"] for p in (project.path / "ledger").glob("*")} == {
        (project.path / ".commit").read_text().strip()
    }


def asked_for_gpus(found: Mapping[str, Status]) -> Counter[str]:
    """How many jobs of each kind asked SLURM for a GPU."""
    listed = subprocess.run(
        ["squeue", "--noheader", "--states=all", "--format=%i %b"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    asked = {line.split()[0] for line in listed.splitlines() if line.endswith("gres:gpu:1")}
    tasks = (status.task for status in found.values())
    return Counter(task.kind for task in tasks if newest_job(task) in asked)


def newest_job(task: Task) -> str:
    return next(str(e["job"]) for e in reversed(task.history()) if e["event"] == "submit")


def hold_a_training(project: Project, sweep: Sweep) -> tuple[Task, list[int]]:
    """Stop the ranks of a training that has a checkpoint, so that it is there to be preempted."""
    saved = project.path / "store" / "adapter"
    there = wait_for(lambda: list(saved.glob(".partial-*/checkpoints/*/complete")), every=0.01)
    key = there[0].parents[2].name.removeprefix(".partial-")
    (task,) = (t for t in sweep.tasks() if any(k.startswith(key) for k in t.keys))
    command = next(event["pid"] for event in task.history() if event["event"] == "start")
    children = Path(f"/proc/{command}/task/{command}/children")
    ranks = [int(pid) for pid in children.read_text().split()]
    for rank in ranks:
        os.kill(rank, signal.SIGSTOP)
    return task, ranks


def waiting_for(sweep: Sweep, kind: str) -> str:
    (task,) = (task for task in sweep.tasks() if task.kind == kind)
    return str(task.history()[0]["job"])


def test_a_rerun_submits_what_is_missing(project: Project) -> None:
    project.restore()
    assert "Everything is there; nothing to submit." in project.run(*SWEEP)
    (lost,) = (project.path / "store" / "subset").glob("random-demo-0.2-s2-*")
    shutil.rmtree(lost)
    said = project.run(*MORE)
    assert "1 jobs submitted" in said
    sweep = project.sweep(said)
    assert {status.state for status in project.ended(sweep).values()} == {"done"}
    assert lost.is_dir()
    told = project.run(f"sweep={sweep.id}", "stages=[report]")
    assert f"{sweep.id}: 1 done" in told and "Report: reports/report.html" in told


def test_two_machines_train_together(project: Project) -> None:
    words = ("method=random", "seed=5", "stages=[select,train]", "train.zero_stage=2")
    said = project.run(*words, "train.nodes=2", "train.processes=1", "train.micro_batch=8")
    found = project.ended(project.sweep(said))
    assert {status.state for status in found.values()} == {"done"}
    adapters = project.path / "store" / "adapter"
    (manifest,) = adapters.glob("tiny-random-demo-0.2-s5-*/manifest.json")
    facts = json.loads(manifest.read_text())["facts"]
    assert (facts["world_size"], facts["zero_stage"]) == (2, 2)


def test_twelve_jobs_that_know_nothing_of_each_other_share_a_store(
    cheap: Cheap, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(cheap.sweep.record()["folder"])
    monkeypatch.chdir(folder)
    seeds = ",".join(str(seed) for seed in range(12))
    jobs = program.compose_all([*SMALL, "-m", "method=random", f"seed={seeds}", "stages=[select]"])
    sweep = freeze_sweep(jobs, folder)
    run = str(program.CONF.parent / "run.py")
    whole = "import subprocess, sys; raise SystemExit(subprocess.call([sys.executable, *{words}]))"
    words = [[run, f"frozen={sweep.run(job)}"] for job in jobs]
    cheap.submit({f"run{n}": (whole.format(words=words[n]), ()) for n in range(12)})
    found = cheap.ended()
    assert {status.state for status in found.values()} == {"done"}, cheap.log("run0")
    (data,) = (folder / "store" / "data").glob("*/manifest.json")
    assert json.loads(data.read_text())["attempts"] == 1
    assert len(list((folder / "store" / "subset").glob("*/manifest.json"))) == 12
    assert not list((folder / "store").glob("*/.partial*"))
