"""Training over several machines: how they find each other, and how they notice that one is gone.

There are two ways. In a SLURM allocation the run starts the launcher of every node through srun. On
other clusters torchrun's variables ``MASTER_ADDR``, ``MASTER_PORT`` and ``NODE_RANK`` name the
nodes: ``run.py`` runs on node 0, and ``python -m train.node <recipe.json>`` on every other node.
The store is on a file system that all nodes share; statuses and heartbeats are files in it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from coincide.schema import UserError
from train.job import TrainingJob

BEAT_SECONDS = 2.0
SILENT_SECONDS = 60.0
"""A node whose heartbeat has not changed for so long, or for half of ``train.timeout``, is lost."""
GRACE_SECONDS = 15.0
"""Time for ranks to notice by themselves that another node has failed."""
FIRST_PORT = 29500


@dataclass(frozen=True)
class Rendezvous:
    """Address and port where the nodes meet, and the number of this node."""

    address: str
    port: int
    node: int


def meeting(nodes: int, environ: Mapping[str, str] | None = None) -> Rendezvous:
    """The rendezvous of ``nodes`` machines from the variables of SLURM or torchrun.

    Raises UserError if neither set of variables is there.
    """
    environ = os.environ if environ is None else environ
    if "SLURM_JOB_NODELIST" in environ:
        port = FIRST_PORT + int(environ["SLURM_JOB_ID"]) % 1000
        return Rendezvous(_first_host(environ), port, int(environ.get("SLURM_NODEID", "0")))
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in environ]
    if missing:
        raise UserError(
            f"train.nodes={nodes} needs to know where the nodes meet; this process is in no SLURM "
            f"allocation and {' and '.join(missing)} are not set. Run with launcher=slurm, or set "
            "MASTER_ADDR (a host name that all nodes reach), MASTER_PORT and NODE_RANK (0 here), "
            "or train.nodes=1."
        )
    node = int(environ.get("NODE_RANK", environ.get("GROUP_RANK", "0")))
    return Rendezvous(environ["MASTER_ADDR"], int(environ["MASTER_PORT"]), node)


def _first_host(environ: Mapping[str, str]) -> str:
    listed = subprocess.run(
        ["scontrol", "show", "hostnames", environ["SLURM_JOB_NODELIST"]],
        capture_output=True,
        text=True,
        check=True,
    )
    return listed.stdout.split()[0]


def all_nodes_command(job: TrainingJob, job_path: Path, launch: str) -> list[str]:
    """The command that starts the launchers of all nodes under SLURM, else only that of this node,
    0.

    In the latter case it prints how to start the others.
    Raises UserError on another node than 0.
    """
    nodes = job.recipe.nodes
    launcher = [sys.executable, "-m", "train.node", str(job_path), "--launch", launch]
    here = meeting(nodes)
    if "SLURM_JOB_NODELIST" not in os.environ:
        if here.node:
            raise UserError(
                f"NODE_RANK={here.node}: run.py runs on node 0. On this node run\n"
                f"  python -m train.node {job_path}"
            )
        print(
            f"train: node 0 of {nodes}; the others join by\n  MASTER_ADDR={here.address} "
            f"MASTER_PORT={here.port} NODE_RANK=<1 to {nodes - 1}> python -m train.node {job_path}",
            flush=True,
        )
        return launcher
    cores = os.environ.get("SLURM_CPUS_ON_NODE")
    return [
        *("srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"),
        *("--overlap", "--kill-on-bad-exit=0"),
        *([f"--cpus-per-task={cores}"] if cores else []),
        *launcher,
    ]


def node_command(job: TrainingJob, job_path: Path, here: Rendezvous) -> list[str]:
    """The torchrun command for the ranks of one node."""
    return [
        *(sys.executable, "-m", "torch.distributed.run"),
        *(f"--nnodes={job.recipe.nodes}", f"--node-rank={here.node}"),
        f"--nproc-per-node={job.world_size // job.recipe.nodes}",
        *(f"--master-addr={here.address}", f"--master-port={here.port}"),
        *("-m", "train.worker", str(job_path)),
    ]


def launch_of(job: TrainingJob) -> str | None:
    """Id of the launch that node 0 asks for at present; None before the first."""
    if not job.launch_file.is_file():
        return None
    return str(json.loads(job.launch_file.read_text(encoding="utf-8"))["launch"])


@dataclass
class NodeWatch:
    """One node's view of the others, through files; clocks are not compared."""

    job: TrainingJob
    node: int
    launch: str
    _began: float = field(default_factory=lambda: time.monotonic())
    _beaten: float = 0.0
    _last: dict[int, tuple[int, float]] = field(default_factory=dict)
    """Node -> newest heartbeat (its time stamp), and when this process first saw it."""

    def beat(self) -> None:
        """Touch this node's heartbeat file."""
        if time.monotonic() - self._beaten >= BEAT_SECONDS:
            self._beaten = time.monotonic()
            self.job.node_beat(self.node).touch()

    def others(self) -> list[int]:
        """Numbers of the other nodes that have not ended."""
        nodes = (k for k in range(self.job.recipe.nodes) if k != self.node)
        return [k for k in nodes if not self.job.node_status(k).is_file()]

    def lost(self) -> str | None:
        """In words: which node has no heartbeat any more, or never started.

        None if all are well.
        """
        patience = self.job.recipe.timeout
        silence = min(SILENT_SECONDS, patience / 2)
        now = time.monotonic()
        for node in self.others():
            seen = self._seen(node)
            named = f"node {node} of {self.job.recipe.nodes}"
            if seen is None and now - self._began > patience:
                return f"{named} did not come within {patience} s"
            if seen is not None and now - seen > silence:
                return f"{named} is silent for {silence:.0f} s"
        return None

    def replaced(self) -> bool:
        """Whether node 0 has started another launch."""
        return self.node != 0 and launch_of(self.job) not in (None, self.launch)

    def failed(self) -> bool:
        """Whether another node has ended with an error."""
        ended = (self.job.node_status(k) for k in range(self.job.recipe.nodes) if k != self.node)
        return any(
            json.loads(path.read_text(encoding="utf-8"))["exit_code"]
            for path in ended
            if path.is_file()
        )

    def _seen(self, node: int) -> float | None:
        """When the newest heartbeat of ``node`` was first seen; None before any."""
        try:
            stamp = self.job.node_beat(node).stat().st_mtime_ns
        except FileNotFoundError:
            return self._last[node][1] if node in self._last else None
        if node not in self._last or self._last[node][0] != stamp:
            self._last[node] = (stamp, time.monotonic())
        return self._last[node][1]
