"""A feature pass as its workers see it: its shards, which are done, and progress over all
workers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from coincide.features.engine.claims import Claims
from coincide.features.engine.contract import SignalPass, WorkerSite
from coincide.features.engine.shards import has_shard, write_shard
from coincide.schema import Signal

LEADER = "pass"
"""Name of the claim of the process that makes the shards into artifacts."""
PATIENCE = 10.0
"""Seconds after which a worker without a free shard prints which process it waits for."""
POLL = 0.5
"""Seconds between two checks for shards that other processes compute."""


class ProgressListener(Protocol):
    """Receives the progress of a worker: a progress bar, or the worker's parent process."""

    def begun(self, shard: int) -> None:
        """Shard number ``shard`` is being computed."""
        ...

    def rows(self, count: int) -> None:
        """``count`` more rows are done."""
        ...


@dataclass(frozen=True)
class PassWork:
    """Picklable description of one feature pass, sent to every worker."""

    signal_pass: SignalPass
    signals: tuple[Signal, ...]
    folders: tuple[Path, ...]
    """Folder for the shards of each signal."""
    claims: Path
    """Folder of the claims."""
    data: Path
    """Folder of the data artifact."""
    model: Path
    """Folder of the model."""
    rows: int
    shard_rows: int

    @cached_property
    def shards(self) -> list[range]:
        """The row indices of each shard."""
        step = self.shard_rows
        return [range(i, min(i + step, self.rows)) for i in range(0, self.rows, step)]

    def missing_shards(self) -> list[int]:
        """Numbers of the shards that are not there for every signal.

        Empty once the artifacts are made.
        """
        try:
            names = [{path.name for path in folder.iterdir()} for folder in self.folders]
        except FileNotFoundError:
            return []
        return [
            i
            for i in range(len(self.shards))
            if not all(has_shard(f, i, n) for f, n in zip(self.folders, names, strict=True))
        ]


def layout_of(folder: Path) -> Mapping[str, int] | None:
    """``shard_rows`` and ``rows`` of a build that was started in ``folder``.

    None if there is none.
    """
    with suppress(FileNotFoundError):
        found: Mapping[str, int] = json.loads((folder / "layout.json").read_text(encoding="utf-8"))
        return found
    return None


def do_shards(work: PassWork, device: str, decoders: int, tell: ProgressListener) -> None:
    """Claim and compute free shards on ``device`` until no shard is missing anywhere.

    Shards that other processes hold are waited for. ``decoders`` processes read rows ahead;
    ``tell`` receives the progress.
    """
    dataset = work.signal_pass.source.open(work.data)
    site = WorkerSite(work.model, dataset, device, decoders)
    made = work.signal_pass.computer(work.signals, site)
    waited = 0.0
    with made as compute, Claims(work.claims) as claims:
        while left := work.missing_shards():
            shard = next((i for i in left if claims.take(f"{i:05d}")), None)
            if shard is None:
                waited += POLL
                if waited == PATIENCE:
                    who = claims.whose(f"{left[0]:05d}")
                    print(f"features: shard {left[0]} is waited for: {who} is at it", flush=True)
                time.sleep(POLL)
                continue
            tell.begun(shard)
            examples = [dataset.examples[row] for row in work.shards[shard]]
            values, valid = compute(examples, tell.rows)
            _write(work, shard, values, valid)
            claims.release(f"{shard:05d}")


def _write(work: PassWork, shard: int, values: Sequence[np.ndarray], valid: np.ndarray) -> None:
    """Write what is still missing: another worker may have taken the shard when this claim was
    void.
    """
    for signal, folder, value in zip(work.signals, work.folders, values, strict=True):
        stored = value.astype(signal.dtype)
        while folder.is_dir() and not has_shard(folder, shard):  # else the artifact is made
            with suppress(FileNotFoundError):  # a new leader swept the folder: once more
                write_shard(folder, shard, stored, valid)


class PassProgress:
    """Progress bar over the rows of the pass, whichever process computes them."""

    def __init__(self, work: PassWork, bar: Any) -> None:
        self.work = work
        self.bar = bar
        self.sizes = {i: len(work.shards[i]) for i in work.missing_shards()}
        self.under_way: dict[int, tuple[int, int]] = {}
        """worker -> shard, rows of it."""
        self._looked = 0.0
        self._left = set(self.sizes)

    def begun(self, shard: int, worker: int = 0) -> None:
        """``worker`` starts shard ``shard``."""
        self.under_way[worker] = (shard, 0)
        self.show(look=True)

    def rows(self, count: int, worker: int = 0) -> None:
        """``worker`` finished ``count`` more rows of its shard."""
        shard, before = self.under_way[worker]
        self.under_way[worker] = (shard, before + count)
        self.show()

    def lost(self, worker: int) -> int | None:
        """``worker`` has ended; returns the shard that it was computing, or None."""
        shard, _ = self.under_way.pop(worker, (None, 0))
        return shard

    def show(self, *, look: bool = False) -> None:
        """Update the bar; every 5 seconds, or with ``look``, also count shards that others
        finished.
        """
        if look or time.monotonic() - self._looked > 5:
            self._left = set(self.work.missing_shards())
            self._looked = time.monotonic()
        done = sum(size for shard, size in self.sizes.items() if shard not in self._left)
        done += sum(rows for shard, rows in self.under_way.values() if shard in self._left)
        self.bar.update(done - self.bar.n)
