"""Start the ranks of a job, show their progress, and say clearly how they ended."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from coincide.schema import UserError
from train.job import EXIT_OUT_OF_MEMORY, EXIT_STOPPED, Job, read_log
from train.worker import die_with_parent

PROJECT = Path(__file__).resolve().parent.parent
POLL_SECONDS = 0.1
SHOW_SECONDS = 15.0
LOG_LINES = 15
_DEAD = re.compile(r"rank\s*:\s*(\d+) \(local_rank.*?exitcode\s*:\s*(-?\d+)", re.DOTALL)


class OutOfMemory(Exception):
    """The ranks did not fit; a smaller micro-batch may."""


class Stopped(UserError):
    """The ranks stopped on request; running again goes on from their checkpoint."""


def launch(
    job: Job, job_path: Path, *, steps: int, worker: Sequence[str] = ("-m", "train.worker")
) -> None:
    """Run the job's ranks to their end.

    SIGTERM and SIGUSR2 sent to this process meanwhile make the ranks write a checkpoint; the
    signal is then delivered to the handler that was there before. Raises :class:`OutOfMemory`,
    :class:`Stopped`, or UserError with the failing rank, its exit code and its last log lines.
    """
    shutil.rmtree(job.logs, ignore_errors=True)
    job.logs.mkdir(parents=True)
    launcher_log = job.logs / "launcher.log"
    with launcher_log.open("wb") as output, _signals(job) as received:
        process = subprocess.Popen(
            [*command(job), *worker, str(job_path)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **_environment(job)},
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        try:
            code = _follow(process, job, steps)
        except BaseException:
            _kill(process)
            raise
    if received:
        os.kill(os.getpid(), received[0])
    if code != 0:
        raise _failure(job, code, launcher_log)


def command(job: Job) -> list[str]:
    """The command line before the worker: plain python, torchrun, or srun with torchrun."""
    nodes = job.recipe.nodes
    if job.world_size == 1:
        return [sys.executable]
    torchrun = [sys.executable, "-m", "torch.distributed.run"]
    per_node = f"--nproc-per-node={job.world_size // nodes}"
    if nodes == 1:
        return [*torchrun, "--standalone", per_node]
    head = _first_host(nodes)
    return [
        *("srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"),
        *torchrun,
        *(f"--nnodes={nodes}", per_node, "--rdzv-backend=c10d"),
        *(f"--rdzv-id={os.environ['SLURM_JOB_ID']}", f"--rdzv-endpoint={head}:29500"),
    ]


def _first_host(nodes: int) -> str:
    if "SLURM_JOB_NODELIST" not in os.environ:
        raise UserError(
            f"train.nodes={nodes} needs a SLURM allocation of that many nodes; this process is in "
            "none. Run with launcher=slurm, or set train.nodes=1."
        )
    listed = subprocess.run(
        ["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]],
        capture_output=True,
        text=True,
        check=True,
    )
    return listed.stdout.split()[0]


# --- while they run ---------------------------------------------------------------------------


def _follow(process: subprocess.Popen[bytes], job: Job, steps: int) -> int:
    """Wait for the process and show one progress line per rank-0 step; its exit code."""
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
    """A function that shows the newest record: in place on a terminal, now and then elsewhere."""
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
def _signals(job: Job) -> Iterator[list[int]]:
    """While inside, SIGTERM and SIGUSR2 ask the ranks to stop; yields the signals received."""
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


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _environment(job: Job) -> dict[str, str]:
    """Variables of the ranks. Thread pools are sized before torch makes them."""
    path = os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])
    threads = job.recipe.threads
    pools = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    return {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **pools}


# --- how they ended ---------------------------------------------------------------------------


def _failure(job: Job, code: int, launcher_log: Path) -> Exception:
    """The exception that says why the ranks ended with ``code``."""
    statuses = [json.loads(p.read_text(encoding="utf-8")) for p in job.logs.glob("rank*.json")]
    statuses.sort(key=lambda status: status["rank"])
    codes = [status["exit_code"] for status in statuses]
    if EXIT_OUT_OF_MEMORY in codes:
        return OutOfMemory(statuses[codes.index(EXIT_OUT_OF_MEMORY)]["message"])
    if codes and all(c == EXIT_STOPPED for c in codes):
        said = "; ".join(f"rank {s['rank']} {s['message']}" for s in statuses)
        return Stopped(
            f"Training wrote a checkpoint and stopped ({said}). Run the same command to go on."
        )
    failed = [s for s in statuses if s["exit_code"]]
    dead = _killed(job, code, launcher_log, {s["rank"] for s in statuses})
    if dead is not None:
        rank, rank_code = dead
        what = f"{_describe(rank_code)}, without a word"
    elif failed:
        rank, rank_code = failed[0]["rank"], failed[0]["exit_code"]
        what = f"exit code {rank_code}: {failed[0]['message']}"
    else:
        said = _tail(launcher_log)
        return UserError(f"Training could not be started (exit code {code}).\n{said}")
    return UserError(
        f"Training failed: rank {rank} of {job.world_size} ended with {what}\n"
        f"Last lines of {job.rank_log(rank)}:\n{_tail(job.rank_log(rank))}"
    )


def _killed(job: Job, code: int, launcher_log: Path, spoke: set[int]) -> tuple[int, int] | None:
    """Rank and exit code of the first rank that died without leaving a status, if any did."""
    if job.world_size == 1:
        started = job.rank_log(0).is_file()
        return (0, code) if started and 0 not in spoke else None
    text = launcher_log.read_text(encoding="utf-8", errors="replace")
    root = text.rpartition("Root Cause")[2]
    found = _DEAD.search(root)
    if found is None or int(found[1]) in spoke:
        return None
    return int(found[1]), int(found[2])


def _describe(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    with suppress(ValueError):
        name = signal.Signals(-code).name
        hint = " (often the system running out of memory)" if name == "SIGKILL" else ""
        return f"exit code {code}, {name}{hint}"
    return f"exit code {code}"


def _tail(path: Path) -> str:
    if not path.is_file():
        return f"  ({path} was not written)"
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
    return "\n".join(f"  {line}" for line in lines)
