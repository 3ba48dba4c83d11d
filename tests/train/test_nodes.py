"""Two pretend nodes on this machine: launchers of their own that meet at one port."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coincide.schema import UserError
from coincide.store import Artifact
from coincide.system.files import write_json
from tests.train.test_launch import job
from tests.train.test_training import (
    ROOT,
    assert_same_answer,
    losses,
    ranks_of,
    start,
    trained,
    wait_for,
)
from tests.train.tiny import Bench
from train import node, nodes
from train.job import EXIT_OUT_OF_MEMORY, TrainingJob
from train.launch import command
from train.nodes import NodeWatch, meeting, node_command
from train.outcome import OutOfMemory, failure

TWO = {"nodes": 2, "processes": 1, "timeout": 120}


@pytest.fixture(scope="module")
def plain(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return trained(made, tmp_path_factory.mktemp("plain"))


@pytest.fixture
def meet(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """torchrun's variables for this process as node 0; those of node 1."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    here = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0"}
    for name in [n for n in os.environ if n.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    for name, value in here.items():
        monkeypatch.setenv(name, value)
    return {**here, "NODE_RANK": "1"}


def second_node(folder: Path, variables: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "train.node", str(folder / "recipe.json")],
        cwd=ROOT,
        env={**os.environ, **variables, "PYTHONPATH": str(ROOT)},
    )


# --- for real ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_nodes_give_the_same_answer(
    plain: Artifact, bench: Bench, meet: dict[str, str]
) -> None:
    step = bench.step(zero_stage=2, **TWO)
    other = second_node(bench.partial(step), meet)
    artifact = bench.store.ensure(step)
    assert other.wait(timeout=60) == 0
    assert artifact.facts["world_size"] == 2
    assert_same_answer(artifact.path, plain.path)


@pytest.mark.slow
def test_a_dead_rank_of_another_node_is_named(bench: Bench, meet: dict[str, str]) -> None:
    from threading import Thread

    step = bench.step(epochs=40, save_every=None, **TWO)
    partial = bench.partial(step)
    other = second_node(partial, meet)

    def kill_rank() -> None:
        while not ((partial / "log.jsonl").is_file() and losses(partial)):
            time.sleep(0.02)
        os.kill(ranks_of(partial)[1], signal.SIGKILL)

    Thread(target=kill_rank, daemon=True).start()
    where = socket.gethostname()
    with pytest.raises(UserError, match=rf"rank 1 of 2 ended .* -9, SIGKILL.*on node {where}"):
        bench.store.ensure(step)
    assert other.wait(timeout=60) not in (0, None)


@pytest.mark.slow
def test_a_lost_node_is_named(bench: Bench, meet: dict[str, str]) -> None:
    """The second machine vanishes, launcher and ranks at once, and leaves no word."""
    changes = {**TWO, "epochs": 400, "save_every": None, "timeout": 60}
    step = bench.step(**changes)
    partial = bench.partial(step)
    other = second_node(partial, meet)
    run = start(bench, changes, stderr=subprocess.PIPE)
    wait_for(lambda: (partial / "log.jsonl").is_file() and losses(partial), run)
    torchrun = Path(f"/proc/{other.pid}/task/{other.pid}/children").read_text().split()
    machine = (ranks_of(partial)[1], *map(int, torchrun), other.pid)
    for pid in machine:
        os.kill(pid, signal.SIGSTOP)  # a machine without power answers nothing, not even "closed"
    try:
        assert run.wait(timeout=100) != 0
    finally:
        for pid in machine:
            os.kill(pid, signal.SIGKILL)
        other.wait()
    assert b"node 1 of 2 is silent" in run.stderr.read()  # type: ignore[union-attr]


# --- piece by piece ---------------------------------------------------------------------------


def two_nodes(folder: Path, **changes: Any) -> TrainingJob:
    recipe = replace(job(folder).recipe, nodes=2, **changes)
    made = job(folder, world_size=16, recipe=recipe)
    made.logs.mkdir(parents=True)
    return made


def test_nodes_meet_by_torchruns_variables(
    tmp_path: Path, meet: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    made, path = two_nodes(tmp_path), tmp_path / "recipe.json"
    line = command(made, path, ())
    assert line[:5] == [sys.executable, "-m", "train.node", str(path), "--launch"]
    assert f"NODE_RANK=<1 to 1> python -m train.node {path}" in capsys.readouterr().out
    torchrun = " ".join(node_command(made, path, meeting(2)))
    assert "--nnodes=2 --node-rank=0 --nproc-per-node=8" in torchrun
    assert f"--master-addr=127.0.0.1 --master-port={meet['MASTER_PORT']}" in torchrun
    assert meeting(2, meet).node == 1


def test_the_run_belongs_on_node_0(
    tmp_path: Path, meet: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODE_RANK", "1")
    with pytest.raises(UserError, match=r"(?s)NODE_RANK=1.*python -m train\.node .*recipe\.json"):
        command(two_nodes(tmp_path), tmp_path / "recipe.json", ())


def test_without_a_meeting_point_nodes_are_refused(
    tmp_path: Path, meet: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MASTER_ADDR")
    with pytest.raises(UserError, match=r"MASTER_ADDR are not set.*launcher=slurm"):
        command(two_nodes(tmp_path), tmp_path / "recipe.json", ())


def test_slurm_starts_every_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\necho first\necho second\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    allocation = {"JOB_NODELIST": "n[1-2]", "JOB_ID": "77", "NODEID": "1", "CPUS_ON_NODE": "16"}
    for name, value in allocation.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    line = " ".join(command(two_nodes(tmp_path), tmp_path / "recipe.json", ()))
    assert line.startswith("srun --nodes=2 --ntasks=2 --ntasks-per-node=1 --overlap")
    assert "--cpus-per-task=16" in line
    assert "-m train.node" in line
    assert meeting(2) == nodes.Rendezvous("first", 29577, 1)


def test_silence_and_absence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = two_nodes(tmp_path, timeout=4)
    clock = [1000.0]
    monkeypatch.setattr(nodes.time, "monotonic", lambda: clock[0])
    watch = NodeWatch(made, 0, "a")
    assert watch.lost() is None
    clock[0] += 6
    assert watch.lost() == "node 1 of 2 did not come within 4 s"
    made.node_beat(1).touch()
    assert watch.lost() is None
    clock[0] += 3
    assert watch.lost() == "node 1 of 2 is silent for 2 s"
    os.utime(made.node_beat(1), ns=(1, 1))  # any other time stamp, however wrong its clock
    assert watch.lost() is None
    write_json(made.node_status(1), {"exit_code": 1})
    clock[0] += nodes.SILENT_SECONDS + 1
    assert watch.lost() is None
    assert watch.failed()


def test_a_new_launch_replaces_the_old_one(tmp_path: Path) -> None:
    made = two_nodes(tmp_path)
    write_json(made.launch_file, {"launch": "a"})
    assert not NodeWatch(made, 1, "a").replaced()
    write_json(made.launch_file, {"launch": "b"})
    assert NodeWatch(made, 1, "a").replaced()
    assert not NodeWatch(made, 0, "a").replaced()


def test_the_other_node_serves_again_after_lack_of_memory(
    tmp_path: Path, meet: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = two_nodes(tmp_path, timeout=2)
    path = tmp_path / "recipe.json"
    made.write(path)
    write_json(made.launch_file, {"launch": "a"})
    served = []

    def serve(job: TrainingJob, recipe: Path, here: nodes.Rendezvous, launch: str) -> int:
        served.append((job.micro_batch, launch))
        if launch == "b":
            return 0
        replace(job, micro_batch=8).write(path)
        write_json(job.launch_file, {"launch": "b"})
        return EXIT_OUT_OF_MEMORY

    monkeypatch.setattr(node, "serve", serve)
    assert node.main([str(path)]) == 0
    assert served == [(16, "a"), (8, "b")]


def test_the_first_to_fail_is_named(tmp_path: Path) -> None:
    """Others fail because of it, some of them with lower ranks."""
    made = job(tmp_path, world_size=3)
    made.logs.mkdir()
    log = made.logs / "launcher.log"
    log.write_text("")
    for rank, (at, message) in enumerate([(9.0, "closed"), (8.0, "no such image"), (9.5, "x")]):
        said = {"rank": rank, "exit_code": 1, "message": message, "host": f"n{rank}", "at": at}
        write_json(made.rank_status(rank), said)
    expected = r"rank 1 of 3 ended with exit code 1: no such image, on node n1"
    assert re.search(expected, str(failure(made, 1, log)))
    told = {**said, "message": "UserError: no such image", "at": 7.0}
    write_json(made.rank_status(2), told)
    assert re.search(r"rank 2 of 3 ended, on node n2: no such image\n", str(failure(made, 1, log)))
    write_json(made.rank_status(2), {**said, "exit_code": EXIT_OUT_OF_MEMORY, "message": "full"})
    assert isinstance(failure(made, 1, log), OutOfMemory)
