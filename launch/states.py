"""The state of a sweep's jobs, from its folder and the queue, without SLURM's accounting."""

from __future__ import annotations

import os
import re
import socket
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from launch.cluster import Queued
from launch.sweep import REPORT, Sweep, Task

ETA = re.compile(r"ETA (\d+):(\d\d):(\d\d)")
STATES = ("running", "queued", "done", "failed", "cancelled", "not run")


@dataclass(frozen=True)
class Status:
    """The state of a task."""

    task: Task
    state: str
    """One of ``STATES``."""
    why: str
    attempts: int
    elapsed: float
    """Seconds in all attempts together."""
    eta: float | None = None
    """Estimated seconds until a running task ends."""


def live_tasks(sweeps: Path, queued: Mapping[str, Queued]) -> dict[Queued, Task]:
    """The queued and running jobs of any sweep below ``sweeps``, with their tasks."""
    found = {}
    for job in queued.values():
        path = Path(job.comment)
        if job.live and path.is_relative_to(sweeps) and path.is_file():
            found[job] = Task.read(path)
    return found


def statuses(sweep: Sweep, queued: Mapping[str, Queued]) -> list[Status]:
    """The state of every task of the sweep, in the order of submission."""
    live = {Path(job.comment): job for job in queued.values() if job.live}
    found: dict[str, Status] = {}
    for task in sweep.tasks():
        found[task.name] = _status(task, live.get(sweep.file(task.name)), found)
    return _with_eta(list(found.values()))


def _status(task: Task, job: Queued | None, others: Mapping[str, Status]) -> Status:
    events = task.history()
    starts = [event for event in events if event["event"] == "start"]
    state, why = _state(task, job, events, others)
    elapsed = _spent(events)
    if starts and events[-1]["event"] in ("start", "signal"):  # runs, or was killed
        log = Path(task.log)
        wrote = log.stat().st_mtime if log.is_file() else 0.0
        until = time.time() if state == "running" else wrote
        elapsed += max(0.0, until - starts[-1]["time"])
    return Status(task, state, why, len(starts), elapsed)


def _state(
    task: Task,
    job: Queued | None,
    events: Sequence[Mapping[str, Any]],
    others: Mapping[str, Status],
) -> tuple[str, str]:
    # only events since the task was last submitted count
    since = max((i for i, e in enumerate(events) if e["event"] == "submit"), default=0)
    recent = events[since:]
    ends = [e for e in recent if e["event"] == "end"]
    # SLURM knows the job: it waits or runs
    if job is not None:
        return ("running", f"job {job.id}") if job.running else ("queued", _waits(job, ends))
    # finished, also if another sweep built its artifacts
    if task.built() or (ends and ends[-1]["how"] == "done"):
        return "done", ""
    # a process of launcher=processes still works on it
    if recent and _alive(recent[-1]):
        return ("running" if recent[-1]["event"] == "start" else "queued"), "on this machine"
    # it ended with an error
    if ends and ends[-1]["how"] == "failed":
        return "failed", f"exit code {ends[-1]['code']}, {len(ends)} of {task.failures} attempts"
    # it started and left no result: stopped by a signal, or killed without an event
    if any(e["event"] == "start" for e in recent):
        told = bool(ends) and recent[-1]["event"] == "end"
        return "cancelled", "stopped by SIGTERM" if told else "killed without a word"
    # it never started: because something it needs failed, or it was cancelled before
    failed = [name for name in task.after if name in others and others[name].state in STATES[3:]]
    return ("not run", f"stands on {failed[0]}") if failed else ("cancelled", "before it started")


def _waits(job: Queued, ends: Sequence[Mapping[str, Any]]) -> str:
    again = {"told": "requeued", "stopped": "requeued", "failed": "tried again"}
    said = f", {again[ends[-1]['how']]}" if ends and ends[-1]["how"] in again else ""
    return f"job {job.id}, {job.reason}{said}"


def _alive(event: Mapping[str, Any]) -> bool:
    """Whether the process that wrote an event (``launcher=processes``) still runs, on this
    machine.
    """
    if event.get("job") or event.get("host") != socket.gethostname() or "pid" not in event:
        return False
    try:
        os.kill(event["pid"], 0)
    except OSError:
        return False
    return True


def _spent(events: Iterable[Mapping[str, Any]]) -> float:
    """Seconds between the recorded starts and ends."""
    spent, began = 0.0, None
    for event in events:
        if event["event"] == "start":
            began = event["time"]
        elif event["event"] == "end" and began is not None:
            spent, began = spent + event["time"] - began, None
    return spent


# --- how long -----------------------------------------------------------------------------------


def _with_eta(found: Sequence[Status]) -> list[Status]:
    usual = usual_seconds(found)
    return [replace(s, eta=_eta(s, usual)) if s.state == "running" else s for s in found]


def usual_seconds(found: Iterable[Status]) -> dict[str, float]:
    """Kind -> mean seconds of the finished tasks."""
    times: dict[str, list[float]] = {}
    for status in found:
        if status.state == "done":
            times.setdefault(status.task.kind, []).append(status.elapsed)
    return {kind: statistics.mean(values) for kind, values in times.items()}


def _eta(status: Status, usual: Mapping[str, float]) -> float | None:
    """Remaining seconds by the log (training only), or by the usual time of its kind if that is
    longer.
    """
    said = ETA.findall("\n".join(tail(Path(status.task.log), 50)))
    guesses = [int(h) * 3600.0 + int(m) * 60 + int(s) for h, m, s in said[-1:]]
    if status.task.kind in usual:
        guesses.append(max(0.0, usual[status.task.kind] - status.elapsed))
    return max(guesses, default=None)


def remaining_seconds(found: Sequence[Status]) -> float | None:
    """Seconds until the sweep ends at its present pace; None if unknown."""
    usual = usual_seconds(found)
    waiting = [s.task.kind for s in found if s.state == "queued" and s.task.kind != REPORT]
    running = [s.eta for s in found if s.state == "running"]
    if any(kind not in usual for kind in waiting) or None in running or not (waiting or running):
        return None
    total = sum(usual[kind] for kind in waiting) + sum(eta or 0.0 for eta in running)
    return total / max(1, len(running))


def format_seconds(seconds: float | None) -> str:
    """``seconds`` as ``1-02:03:04``; a dash for None."""
    if seconds is None:
        return "–"
    days, rest = divmod(int(seconds), 86400)
    text = time.strftime("%H:%M:%S", time.gmtime(rest))
    return f"{days}-{text}" if days else text


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a log of any length."""
    if not path.is_file():
        return []
    with path.open("rb") as handle:
        handle.seek(max(0, path.stat().st_size - 64 * 1024))
        text = handle.read().decode("utf-8", errors="replace")
    return text.replace("\r", "\n").splitlines()[-lines:]
