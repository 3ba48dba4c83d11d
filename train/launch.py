"""Start the ranks of a training job, show their progress, and report how they ended."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from coincide.system.forkserver import Process, start
from coincide.system.processes import preexec_die_with_parent
from coincide.terminal.redact import redact_file
from train.job import TrainingJob, read_log
from train.nodes import all_nodes_command
from train.outcome import failure

PROJECT = Path(__file__).resolve().parent.parent
POLL_SECONDS = 0.1
SHOW_SECONDS = 15.0


def launch(
    job: TrainingJob, job_path: Path, *, steps: int, worker: Sequence[str] = ("-m", "train.worker")
) -> None:
    """Run the job's ranks until they end.

    ``steps`` is the number of optimizer steps, for the progress. If this process receives SIGTERM
    or SIGUSR2, the ranks write a checkpoint and stop; the signal is then passed to the handler that
    was installed before. Raises :class:`OutOfMemory`, :class:`Stopped`, or UserError with the
    failing rank, its exit code and the end of its log.
    """
    shutil.rmtree(job.logs, ignore_errors=True)
    job.logs.mkdir(parents=True)
    launcher_log = job.logs / "launcher.log"
    with launcher_log.open("wb") as output, stop_signals(job) as received:
        process = start(
            command(job, job_path, worker),
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **rank_environment(job)},
            start_new_session=True,
            preexec_fn=preexec_die_with_parent(),
        )
        try:
            code = _follow(process, job, steps)
        finally:
            kill_group(process)
            for log in job.logs.glob("*.log"):
                redact_file(log)
    if received:
        os.kill(os.getpid(), received[0])
    if code != 0:
        raise failure(job, code, launcher_log)


def command(job: TrainingJob, job_path: Path, worker: Sequence[str]) -> list[str]:
    """The command line: the worker itself, torchrun, or the launchers of several nodes."""
    if job.recipe.nodes > 1:
        return all_nodes_command(job, job_path, uuid.uuid4().hex[:8])
    alone = [sys.executable, *worker, str(job_path)]
    if job.world_size == 1:
        return alone
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*torchrun, f"--nproc-per-node={job.world_size}", *alone[1:]]


# --- while they run ---------------------------------------------------------------------------


def _follow(process: Process, job: TrainingJob, steps: int) -> int:
    """Wait for the process, showing a progress line per step of rank 0; returns its exit code."""
    show = _progress(steps)
    offset = job.log.stat().st_size if job.log.is_file() else 0
    while (code := process.poll()) is None:
        time.sleep(POLL_SECONDS)
        if job.log.is_file() and job.log.stat().st_size > offset:
            offset = job.log.stat().st_size
            show(read_log(job.log)[-1])
    if job.log.is_file() and (records := read_log(job.log)):
        show(records[-1], last=True)
    return code


def _progress(steps: int) -> Callable[..., None]:
    """A function that shows the newest record: in place on a terminal, else now and then."""
    terminal = sys.stdout.isatty()
    began: dict[str, float] = {}

    def show(record: dict[str, Any], *, last: bool = False) -> None:
        now = time.monotonic()
        if not began:
            began.update(step=record["step"], time=now, shown=now)
        if not terminal and not last and now - began["shown"] < SHOW_SECONDS:
            return
        began["shown"] = now
        done = record["step"] - began["step"]
        pace = (now - began["time"]) / done if done else 0.0
        left = time.strftime("%H:%M:%S", time.gmtime(pace * (steps - record["step"])))
        text = f"train: step {record['step']:,}/{steps:,}  loss {record['loss']:.3f}  ETA {left}"
        start, end = ("\r", "\n" if last else "") if terminal else ("", "\n")
        print(f"{start}{text}", end=end, flush=True)

    return show


@contextmanager
def stop_signals(job: TrainingJob) -> Iterator[list[int]]:
    """In this context SIGTERM and SIGUSR2 ask the ranks to stop; yields the signals received."""
    received: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        received.append(number)
        job.stop_file.touch()

    before: dict[signal.Signals, Any] = {}
    with suppress(ValueError):  # not the main thread: signals are somebody else's business
        for number in (signal.SIGTERM, signal.SIGUSR2):
            before[number] = signal.signal(number, ask)
    try:
        yield received
    finally:
        for caught, handler in before.items():
            signal.signal(caught, handler)


def kill_group(process: Process) -> None:
    """Kill a process that still runs, and all processes that it has started."""
    if process.poll() is not None:
        return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def rank_environment(job: TrainingJob) -> dict[str, str]:
    """Environment variables of the ranks.

    They set the sizes of thread pools before torch creates them.
    """
    path = os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])
    threads = job.recipe.threads
    pools = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    return {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **pools}
