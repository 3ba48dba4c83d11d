"""How the ranks of a job ended: the exception that names the rank, where it ran, and why it
failed.
"""

from __future__ import annotations

import errno
import json
import re
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coincide.schema import UserError
from coincide.system.disk import NEARLY, free_bytes
from train.job import EXIT_DISK, EXIT_OUT_OF_MEMORY, EXIT_STOPPED, TrainingJob

LOG_LINES = 15
_TOLD = "UserError: "
"""How the message of a rank begins whose error says all that there is to say."""
_DEAD = re.compile(
    r"time\s*:\s*(\S+)\s+host.*?rank\s*:\s*(\d+) \(local_rank.*?exitcode\s*:\s*(-?\d+)", re.DOTALL
)


class OutOfMemory(Exception):
    """The ranks ran out of memory; a smaller micro-batch may fit."""


class Stopped(UserError):
    """The ranks stopped on request; running again resumes from their checkpoint."""


@dataclass(frozen=True)
class DeadRank:
    """A rank that ended without writing a status."""

    rank: int
    code: int
    host: str


def failure(job: TrainingJob, code: int, launcher_log: Path) -> Exception:
    """The exception for ranks of ``job`` that ended with ``code``; for the caller to raise."""
    statuses = rank_statuses(job)
    codes = [status["exit_code"] for status in statuses]
    if EXIT_OUT_OF_MEMORY in codes:
        return OutOfMemory(statuses[codes.index(EXIT_OUT_OF_MEMORY)]["message"])
    if codes and all(c == EXIT_STOPPED for c in codes):
        ranks = sorted(statuses, key=lambda status: status["rank"])
        said = "; ".join(f"rank {s['rank']} {s['message']}" for s in ranks)
        return Stopped(
            f"Training wrote a checkpoint and stopped ({said}). Run the same command to go on."
        )
    if (full := _disk_full(job, code, statuses)) is not None:
        return full
    dead, lost = _without_a_word(job, code, launcher_log)
    failed = [s for s in statuses if s["exit_code"] not in (0, EXIT_STOPPED)]
    if dead is not None:
        return _rank_failed(job, dead.rank, f"{_describe(dead.code)}, without a word", dead.host)
    if lost is not None:
        return UserError(
            f"Training failed: {lost}\nLast lines of {launcher_log}:\n{tail(launcher_log)}"
        )
    if failed:
        first = failed[0]
        if first["message"].startswith(_TOLD):
            said = first["message"].removeprefix(_TOLD)
            log = job.rank_log(first["rank"])
            where = f"rank {first['rank']} of {job.world_size} ended, on node {first['host']}"
            return UserError(f"Training failed: {where}: {said}\nIts log: {log}")
        what = f"exit code {first['exit_code']}: {first['message']}"
        return _rank_failed(job, first["rank"], what, first["host"])
    return UserError(f"Training could not be started (exit code {code}).\n{tail(launcher_log)}")


def _disk_full(job: TrainingJob, code: int, statuses: list[dict[str, Any]]) -> OSError | None:
    """An OSError if a rank could not write because the disk was full, or most likely so; else None.

    With a full disk a rank may be unable to write its status, and torchrun does not pass on exit
    codes.
    """
    for status in statuses:
        if status["exit_code"] == EXIT_DISK:
            what = f"rank {status['rank']} of {job.world_size}: {status['message']}"
            return OSError(errno.ENOSPC, what)
    killed = code < 0 or code == 128 + signal.SIGKILL
    if code == EXIT_DISK or (not killed and free_bytes(Path(job.output)) < NEARLY):
        return OSError(errno.ENOSPC, f"a rank of {job.world_size} ended with exit code {code}")
    return None


def rank_statuses(job: TrainingJob) -> list[dict[str, Any]]:
    """The statuses that ranks wrote, by time: later ranks may have failed because of the first
    one.
    """
    said = []
    for path in job.logs.glob("rank*.json"):
        with suppress(OSError, ValueError):
            said.append(json.loads(path.read_text(encoding="utf-8")))
    return sorted(said, key=lambda status: status["at"])


def dead_rank(launcher_log: Path, spoke: set[int]) -> DeadRank | None:
    """The rank of this node that torchrun reports as the first to die, if it wrote no status.

    torchrun reports whole seconds. If several ranks died in the first of them, those with a status
    may have failed because of the one without.
    """
    text = launcher_log.read_text(encoding="utf-8", errors="replace")
    found = [(at, int(rank), int(code)) for at, rank, code in _DEAD.findall(text)]
    first = min((at for at, _, _ in found), default=None)
    for at, rank, code in found:
        if at == first and rank not in spoke and code != -signal.SIGTERM:  # torchrun's own
            return DeadRank(rank, code, socket.gethostname())
    return None


def _without_a_word(
    job: TrainingJob, code: int, launcher_log: Path
) -> tuple[DeadRank | None, str | None]:
    """A rank that died without a status, and what is known of a node that did."""
    spoke = {status["rank"] for status in rank_statuses(job)}
    if job.recipe.nodes > 1:
        return _of_nodes(job)
    if job.world_size > 1:
        return dead_rank(launcher_log, spoke), None
    started = job.rank_log(0).is_file() and 0 not in spoke
    return (DeadRank(0, code, socket.gethostname()) if started else None), None


def _of_nodes(job: TrainingJob) -> tuple[DeadRank | None, str | None]:
    nodes = [json.loads(path.read_text(encoding="utf-8")) for path in job.logs.glob("node*.json")]
    nodes.sort(key=lambda node: node["at"])
    dead = next((DeadRank(**node["dead"]) for node in nodes if node["dead"]), None)
    return dead, next((node["lost"] for node in nodes if node["lost"]), None)


def _rank_failed(job: TrainingJob, rank: int, what: str, host: str) -> UserError:
    log = job.rank_log(rank)
    return UserError(
        f"Training failed: rank {rank} of {job.world_size} ended with {what}, on node {host}\n"
        f"Last lines of {log}:\n{tail(log)}"
    )


def _describe(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    with suppress(ValueError):
        name = signal.Signals(-code).name
        hint = " (often the system running out of memory)" if name == "SIGKILL" else ""
        return f"exit code {code}, {name}{hint}"
    return f"exit code {code}"


def tail(path: Path) -> str:
    """The last lines of a log, indented."""
    if not path.is_file():
        return f"  ({path} was not written)"
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
    return "\n".join(f"  {line}" for line in lines)
