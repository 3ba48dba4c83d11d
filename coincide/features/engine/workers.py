"""The processes of a pass on this machine: one per device, each taking free shards.

A worker that is lost costs the shard it was at, which another takes; a worker that fails stops the
pass with its traceback and the shard.
"""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from coincide.features.engine.devices import cores
from coincide.features.engine.work import POLL, Tally, Work, do_shards
from coincide.processes import die_with_parent
from coincide.schema import UserError

ENDING = 10.0
"""Seconds that a worker has to end when asked."""


class WorkerFailed(RuntimeError):
    """A worker raised; the message holds its traceback and the shard it was at."""


@dataclass
class _Worker:
    number: int
    device: str
    process: Any
    messages: Connection


@dataclass
class _Sender:
    """A worker's progress, sent to its parent."""

    messages: Connection

    def begun(self, shard: int) -> None:
        self.messages.send(("begun", shard))

    def rows(self, count: int) -> None:
        self.messages.send(("rows", count))


def run_workers(work: Work, devices: Sequence[str], decoders: int, tally: Tally) -> None:
    """Run one worker per device until every shard is there.

    Raises UserError for what a worker found wrong with the input, :class:`WorkerFailed` for any
    other error of a worker, and UserError when all of them are gone.
    """
    workers = [_start(work, i, device, decoders, len(devices)) for i, device in enumerate(devices)]
    try:
        _attend(work, list(workers), tally)
    finally:
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.process.join(ENDING)
            if worker.process.is_alive():
                worker.process.kill()
            worker.messages.close()


def _attend(work: Work, workers: list[_Worker], tally: Tally) -> None:
    """Receive the workers' messages until every worker process has exited."""
    while workers:
        wait([w for worker in workers for w in (worker.messages, worker.process.sentinel)], POLL)
        for worker in list(workers):
            try:
                gone = not worker.process.is_alive()
                while worker.messages.poll():
                    _hear(worker, worker.messages.recv(), tally)
            except (EOFError, ConnectionError):
                gone = True
            if gone:
                workers.remove(worker)
                _ended(work, worker, workers, tally)
        tally.show()


def _hear(worker: _Worker, message: tuple[str, Any], tally: Tally) -> None:
    told, what = message
    if told == "begun":
        tally.begun(what, worker.number)
    elif told == "rows":
        tally.rows(what, worker.number)
    else:
        shard = tally.lost(worker.number)
        where = "before its first shard" if shard is None else f"at shard {shard}"
        if told == "user error":
            raise UserError(f"{what} (worker {worker.number} on {worker.device}, {where})")
        raise WorkerFailed(
            f"worker {worker.number} on {worker.device} failed {where}:\n{what}"
            "The shards that are done are kept; run again to resume."
        )


def _ended(work: Work, worker: _Worker, others: Sequence[_Worker], tally: Tally) -> None:
    worker.process.join()
    code = worker.process.exitcode
    shard = tally.lost(worker.number)
    if code == 0:
        return
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    where = "" if shard is None else f" at shard {shard}, which another takes"
    print(f"features: worker {worker.number} on {worker.device} was {how}{where}", flush=True)
    if not others and work.left():
        raise UserError(
            f"every worker of the feature pass is gone, the last {how} (for want of memory?). "
            "Set a lower features.batch_tokens, decode_workers or processes; run again to resume."
        )


def _start(work: Work, number: int, device: str, decoders: int, together: int) -> _Worker:
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_main, args=(work, device, decoders, together, theirs))
    process.start()
    theirs.close()
    return _Worker(number, device, process, mine)


def _main(work: Work, device: str, decoders: int, together: int, messages: Connection) -> None:
    import torch

    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it and ends us
    if device == "cpu":
        torch.set_num_threads(max(1, cores() // together))
    else:
        torch.cuda.set_device(device)
    try:
        do_shards(work, device, decoders, _Sender(messages))
    except UserError as error:
        _tell(messages, ("user error", str(error)))
    except Exception:
        _tell(messages, ("error", traceback.format_exc()))


def _tell(messages: Connection, message: tuple[str, str]) -> None:
    with suppress(BrokenPipeError):
        messages.send(message)
