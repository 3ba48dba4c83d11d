"""Run one attempt at a task and record its events: in a job, ``python -m launch.supervise
<task>.json``.

What happens next depends on how it ends. SIGUSR2 (the warning before the time limit or a
preemption) is passed on to the command, so that a training writes a checkpoint, and the job is
requeued, any number of times. SIGTERM is passed on as well, but the cluster requeues the job
(preempted) or nobody does (cancelled). After a failure the job is requeued until ``Task.failures``
is reached.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from coincide.system.forkserver import Process, start
from coincide.system.processes import preexec_die_with_parent
from coincide.terminal.inert import guard_terminal
from launch.sweep import Task

How = Literal["done", "failed", "told", "stopped"]
"""``told``: by SIGUSR2, that time is running out. ``stopped``: by SIGTERM."""
EXIT_STOPPED = 75
"""EX_TEMPFAIL: the command stopped and can be run again."""


def environment(task: Task, **more: str) -> dict[str, str]:
    """Environment in which only the frozen code is imported.

    ``python -m`` would search the current folder first, which may hold the live code.
    """
    path = os.pathsep.join([task.code, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", **more}


def begin(task: Task, env: dict[str, str], *, job: str | None = None) -> Process:
    """Start the command; its output is appended to the task's log."""
    with Path(task.log).open("ab") as log:
        process = start(
            task.command,
            cwd=task.folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=preexec_die_with_parent(),
        )
    facts = {"host": socket.gethostname(), "pid": process.pid, "supervisor": os.getpid()}
    task.note("start", job=job, **facts)
    return process


def close(task: Task, code: int, received: list[int]) -> How:
    """Record how the command ended, from its exit code and the signals that were passed on to
    it.
    """
    how = _how(code, received)
    task.note("end", how=how, code=code)
    return how


def _how(code: int, received: list[int]) -> How:
    if code == 0:
        return "done"
    if signal.SIGTERM in received:
        return "stopped"
    return "told" if received else "failed"


@contextmanager
def pass_on(
    processes: Callable[[], Iterable[Process]],
    note: Callable[[str], None] = lambda name: None,
) -> Iterator[list[int]]:
    """In this context SIGTERM and SIGUSR2 are passed on to the processes; yields those received."""
    received: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for process in processes():
            with suppress(ProcessLookupError):
                os.kill(process.pid, number)
        note(signal.Signals(number).name)

    numbers = (signal.SIGTERM, signal.SIGUSR2)
    before: dict[signal.Signals, Any] = {n: signal.signal(n, forward) for n in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def given_up(task: Task) -> bool:
    """Whether the task has failed as often as it may since it was last submitted."""
    events = task.history()
    last = max((i for i, e in enumerate(events) if e["event"] == "submit"), default=0)
    failed = [e for e in events[last:] if e["event"] == "end" and e["how"] == "failed"]
    return len(failed) >= task.failures


def main(path: Path) -> int:
    """Supervise the task in ``path`` in a SLURM job; returns the exit status of the job."""
    task = Task.read(path)
    job = os.environ["SLURM_JOB_ID"]
    process = begin(task, environment(task), job=job)
    with pass_on(lambda: [process], lambda name: task.note("signal", signal=name)) as received:
        code = process.wait()
    how = close(task, code, received)
    if how == "done":
        return 0
    if how == "told" or (how == "failed" and not given_up(task)):
        task.note("requeue", job=job)
        return requeue(job)
    return EXIT_STOPPED if how == "stopped" else 1


def requeue(job: str) -> int:
    """Requeue this job; SLURM kills it for that, so the returned status hardly matters."""
    done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
    if done.returncode:
        print(f"scontrol requeue {job}: {done.stderr.strip()}", file=sys.stderr, flush=True)
        return 1
    return EXIT_STOPPED


if __name__ == "__main__":
    guard_terminal()
    sys.exit(main(Path(sys.argv[1])))
