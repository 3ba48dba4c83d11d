"""A real SLURM on this machine for the whole session: two pretend nodes, two partitions.

Where it cannot be started these tests are skipped, and the summary says why.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launch import cluster
from launch.plan import Node
from launch.resources import Resources
from launch.slurm import Slurm
from launch.states import Status, statuses
from launch.sweep import Sweep, Task

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "slurm.sh"
PATIENCE = 300.0
"""Seconds after which a job that should have ended is called lost: machines may be busy."""
SMALL = Resources(cpus=1, memory_gb=0.5, time="00:10:00")
SITE = Slurm(gpu=SMALL, cpu=SMALL, failures=1, warning_s=30)


def unavailable() -> str | None:
    """Why no SLURM can be started here, if so."""
    needed = ("munged", "slurmctld", "slurmd", "sbatch")
    missing = [name for name in needed if not shutil.which(name)]
    if missing:
        return f"{', '.join(missing)} not installed (as root: scripts/slurm.sh install)"
    return None if os.geteuid() == 0 else "slurmd needs root"


@pytest.fixture(scope="session", autouse=True)
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The cluster runs, and SLURM's commands find it."""
    if why := unavailable():
        pytest.skip(why)
    folder = str(tmp_path_factory.mktemp("slurm"))
    port = {"SLURM_BASE_PORT": str(_free_ports(70))}
    started = subprocess.run(
        [SCRIPT, "start", folder], capture_output=True, text=True, env={**os.environ, **port}
    )
    assert started.returncode == 0, started.stdout + started.stderr
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = f"{folder}/slurm.conf"
    try:
        yield
    finally:
        cluster.cancel([job.id for job in cluster.queue().values() if job.live])
        wait_for(lambda: not any(job.live for job in cluster.queue().values()))
        subprocess.run([SCRIPT, "stop", folder], check=True)
        os.environ.pop("SLURM_CONF")
        if before is not None:
            os.environ["SLURM_CONF"] = before


def _free_ports(count: int) -> int:
    """The first of so many ports in a row that nobody listens at."""
    for first in range(16000 + os.getpid() % 50 * 100, 60000, 100):
        try:
            with ExitStack() as stack:
                for port in range(first, first + count):
                    listening = stack.enter_context(socket.socket())
                    listening.bind(("127.0.0.1", port))
            return first
        except OSError:
            continue
    raise RuntimeError("no free ports")


def wait_for(condition: Callable[[], Any], *, every: float = 0.2) -> Any:
    """What ``condition`` gives once it holds."""
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(every)
    return found


Make = Mapping[str, tuple[str, Sequence[str]]]
"""Name -> a Python program, and the names it waits for."""


class Cheap:
    """Sweeps of small Python programs: the queue and its rules without the laboratory."""

    def __init__(self, folder: Path) -> None:
        self.sweep = Sweep(folder / "sweeps" / "cheap")
        for name in ("jobs", "logs", "runs"):
            (self.sweep.path / name).mkdir(parents=True)
        record = {"folder": str(folder), "command": "python again", "runs": []}
        (self.sweep.path / "sweep.json").write_text(json.dumps(record))

    def submit(
        self, make: Make, site: Slurm = SITE, *, kinds: Mapping[str, str] | None = None
    ) -> None:
        """Submit the programs as one sweep; ``kinds``: of those that are no training."""
        nodes, tasks = [], []
        for name, (program, after) in make.items():
            kind = (kinds or {}).get(name, "adapter")
            nodes.append(Node(name, "train", kind, after=tuple(after), processes="auto"))
            tasks.append(self._task(name, program, after, site.failures))
        site.submit(self.sweep, nodes, tasks, {}, with_report=False)

    def _task(self, name: str, program: str, after: Sequence[str], failures: int) -> Task:
        return Task(
            name=name, stage="train", kind="adapter", command=(sys.executable, "-c", program),
            code=str(ROOT), folder=self.sweep.record()["folder"],
            events=str(self.sweep.path / "jobs" / f"{name}.events.jsonl"),
            log=str(self.sweep.path / "logs" / f"{name}.log"),
            failures=failures, after=tuple(after),
        )  # fmt: skip

    def status(self, name: str) -> Status:
        found = statuses(self.sweep, cluster.queue())
        return next(status for status in found if status.task.name == name)

    def ended(self, *names: str) -> dict[str, Status]:
        """How these stand once none of them waits or runs any more."""

        def over() -> dict[str, Status] | None:
            found = {s.task.name: s for s in statuses(self.sweep, cluster.queue())}
            chosen = {name: found[name] for name in names or found}
            waiting = any(s.state in ("queued", "running") for s in chosen.values())
            return None if waiting else chosen

        found: dict[str, Status] = wait_for(over)
        return found

    def job(self, name: str) -> str:
        """Number of the newest job."""
        events = self.status(name).task.history()
        return str(next(e["job"] for e in reversed(events) if e["event"] == "submit"))

    def log(self, name: str) -> str:
        path = self.sweep.path / "logs" / f"{name}.log"
        return path.read_text() if path.is_file() else ""

    def events(self, name: str) -> list[dict[str, Any]]:
        return self.status(name).task.history()


@pytest.fixture
def cheap(tmp_path: Path) -> Cheap:
    return Cheap(tmp_path)


def on(site: Slurm = SITE, *options: str, **gpu: Any) -> Slurm:
    """``site`` with other resources."""
    return replace(site, gpu=replace(site.gpu, options=options, **gpu))
