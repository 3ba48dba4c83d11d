"""SLURM's commands: submit, query, cancel. Accounting is not used, since clusters may lack it."""

from __future__ import annotations

import getpass
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from coincide.schema import UserError

LIVE = frozenset(
    "PENDING CONFIGURING RUNNING COMPLETING SUSPENDED STOPPED RESIZING SIGNALING STAGE_OUT "
    "REQUEUED REQUEUE_FED REQUEUE_HOLD SPECIAL_EXIT".split()
)
"""States from which a job can still continue."""
NEVER = "DependencyNeverSatisfied"


@dataclass(frozen=True)
class Queued:
    """A job in SLURM's queue."""

    id: str
    state: str
    reason: str
    elapsed: str
    """Of the present attempt, e.g. ``1-02:03:04``."""
    comment: str
    """``<sweep id>/<task>``: SLURM may reuse job numbers, so they do not identify a task."""

    @property
    def live(self) -> bool:
        return self.state in LIVE and self.reason != NEVER

    @property
    def running(self) -> bool:
        return self.state not in ("PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD")


def queue() -> dict[str, Queued]:
    """Job id -> the user's jobs that the controller still knows, finished ones included."""
    columns = "%i|%T|%r|%M|%k"
    listed = _command(
        "squeue", "--noheader", "--states=all", f"--user={getpass.getuser()}", f"--format={columns}"
    )
    rows = (line.split("|", 4) for line in listed.splitlines() if line.count("|") >= 4)
    return {row[0]: Queued(*row) for row in rows}


def submit(script: Path, options: Iterable[str]) -> str:
    """Submit ``script`` with sbatch's ``options``; returns the job id."""
    return _command("sbatch", "--parsable", *options, str(script)).strip().split(";")[0]


def cancel(jobs: Sequence[str]) -> None:
    """Cancel jobs by their ids."""
    if jobs:
        _command("scancel", *jobs)


def _command(*words: str) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise UserError(
            f"launcher=slurm needs SLURM's commands, and {words[0]} is not on this machine. Use a "
            "login node of the cluster, or launcher=local or processes."
        ) from error
    if done.returncode:
        raise UserError(f"{words[0]} refused: {(done.stderr or done.stdout).strip()}")
    return done.stdout
