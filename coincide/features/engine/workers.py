"""The worker processes of a pass on this machine: one per device, each taking free units.

If a worker is killed, another one computes its unit again. If a worker raises, the pass stops with
the worker's traceback and the unit's number.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import spawn
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from coincide.features.engine.work import POLL, PassProgress, PassWork, do_units
from coincide.schema import UserError
from coincide.system.disk import is_full
from coincide.system.processes import available_cores, preexec_die_with_parent
from coincide.terminal.inert import guard_terminal
from coincide.terminal.progress import silence

PROJECT = Path(__file__).resolve().parents[3]
CHILD = "from coincide.features.engine.workers import child; child()"
ENDING = 10.0
"""Seconds that a worker has to exit when asked to."""


class WorkerFailed(RuntimeError):
    """A worker raised; the message holds its traceback and the unit it was at."""


@dataclass
class _Worker:
    number: int
    device: str
    process: subprocess.Popen[bytes]
    messages: Connection


@dataclass
class _Sender:
    """Sends a worker's progress to its parent process."""

    messages: Connection

    def begun(self, unit: int) -> None:
        self.messages.send(("begun", unit))

    def rows(self, count: int) -> None:
        self.messages.send(("rows", count))


def run_workers(work: PassWork, devices: Sequence[str], decoders: int, tally: PassProgress) -> None:
    """Run one worker process per device until every unit is there.

    Raises UserError for what a worker found wrong with the input, :class:`WorkerFailed` for any
    other exception of a worker, and UserError when no worker is left.
    """
    workers = [_start(work, i, device, decoders, len(devices)) for i, device in enumerate(devices)]
    try:
        _attend(work, list(workers), tally)
    finally:
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            try:
                worker.process.wait(ENDING)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            worker.messages.close()


def _attend(work: PassWork, workers: list[_Worker], tally: PassProgress) -> None:
    """Receive the workers' messages until every worker process has exited."""
    while workers:
        wait([worker.messages for worker in workers], POLL)
        for worker in list(workers):
            try:
                gone = worker.process.poll() is not None
                while worker.messages.poll():
                    _hear(worker, worker.messages.recv(), tally)
            except (EOFError, ConnectionError):
                gone = True
            if gone:
                workers.remove(worker)
                _ended(work, worker, workers, tally)
        tally.show()


def _hear(worker: _Worker, message: tuple[str, Any], tally: PassProgress) -> None:
    kind, what = message
    if kind == "begun":
        tally.begun(what, worker.number)
    elif kind == "rows":
        tally.rows(what, worker.number)
    else:
        unit = tally.lost(worker.number)
        where = "before its first unit" if unit is None else f"at unit {unit}"
        if kind == "full":
            raise OSError(errno.ENOSPC, f"{what} (worker {worker.number}, {where})")
        if kind == "user error":
            raise UserError(f"{what} (worker {worker.number} on {worker.device}, {where})")
        raise WorkerFailed(
            f"worker {worker.number} on {worker.device} failed {where}:\n{what}"
            "The units that are done are kept; run again to resume."
        )


def _ended(work: PassWork, worker: _Worker, others: Sequence[_Worker], tally: PassProgress) -> None:
    code = worker.process.wait()
    unit = tally.lost(worker.number)
    if code == 0:
        return
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    where = "" if unit is None else f" at unit {unit}, which another takes"
    print(f"features: worker {worker.number} on {worker.device} was {how}{where}", flush=True)
    if not others and work.missing():
        raise UserError(
            f"every worker of the feature pass is gone, the last {how} (for want of memory?). "
            "Set a lower features.batch_tokens, decode_workers or processes; run again to resume."
        )


def _start(work: PassWork, number: int, device: str, decoders: int, together: int) -> _Worker:
    """Start a worker. Not through ``multiprocessing``: its children survive a parent that is killed
    while they import.
    """
    mine, theirs = multiprocessing.Pipe()
    path = os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        env={**os.environ, "PYTHONPATH": path},
        preexec_fn=preexec_die_with_parent(),
    )
    theirs.close()
    prepared = spawn.get_preparation_data(f"features-{number}")
    prepared.pop("authkey", None)  # a secret that children of multiprocessing alone may have
    with suppress(BrokenPipeError):  # it ended already, which is heard of in its turn
        mine.send(prepared)
        mine.send((work, device, decoders, together))
    return _Worker(number, device, process, mine)


def child() -> None:
    """Entry point of a worker process: receives its work through the pipe given on its command
    line.
    """
    guard_terminal()
    messages: Connection = Connection(int(sys.argv[1]))
    spawn.prepare(messages.recv())  # modules as the parent has them, its main module among them
    work, device, decoders, together = messages.recv()
    silence()
    _main(work, device, decoders, together, messages)


def _main(work: PassWork, device: str, decoders: int, together: int, messages: Connection) -> None:
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it and ends us
    if device == "cpu":
        torch.set_num_threads(max(1, available_cores() // together))
    else:
        torch.cuda.set_device(device)
    try:
        do_units(work, device, decoders, _Sender(messages))
    except UserError as error:
        _tell(messages, ("user error", str(error)))
    except Exception as error:
        full = f"{type(error).__name__}: {error}" if is_full(error) else None
        _tell(messages, ("full", full) if full else ("error", traceback.format_exc()))


def _tell(messages: Connection, message: tuple[str, str]) -> None:
    with suppress(BrokenPipeError):
        messages.send(message)
