"""A feature pass as its workers see it: its units, which are done, and the workers' progress."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from coincide.features.engine.claims import Claims
from coincide.features.engine.contract import SignalPass, WorkerSite
from coincide.features.engine.shards import has_shard, write_shard
from coincide.features.engine.units import Units, lacking
from coincide.schema import Signal
from coincide.system.files import read_cache

LEADER = "pass"
"""Name of the claim of the process that makes the shards into artifacts."""
PATIENCE = 10.0
"""Seconds after which a worker without a free unit prints which process it waits for."""
POLL = 0.5
"""Seconds between two checks for units that other processes compute."""


LAYOUT = "layout.json"
"""File of a build with the number of rows and the rows of a shard."""


class ProgressListener(Protocol):
    """Receives the progress of a worker: a progress bar, or the worker's parent process."""

    def begun(self, unit: int) -> None:
        """Unit number ``unit`` is being computed."""
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
    """Folder for the units of each signal."""
    claims: Path
    """Folder of the claims."""
    data: Path
    """Folder of the data artifact."""
    model: Path
    """Folder of the model."""
    units: Units

    def missing(self) -> list[int]:
        """Numbers of the units that are not there for every signal.

        Empty once the artifacts are made.
        """
        return lacking(self.folders, len(self.units.rows))


def layout_of(folder: Path) -> Mapping[str, int] | None:
    """``shard_rows`` and ``rows`` of a build that was started in ``folder``.

    None if there is none, or if the file was damaged.
    """
    found = read_cache(folder / LAYOUT)
    good = found.keys() == {"rows", "shard_rows"} and all(type(n) is int for n in found.values())
    return found if good and found["shard_rows"] > 0 else None


def do_units(work: PassWork, device: str, decoders: int, tell: ProgressListener) -> None:
    """Claim and compute free units on ``device`` until no unit is missing anywhere.

    Units that other processes hold are waited for. ``decoders`` processes read rows ahead;
    ``tell`` receives the progress.
    """
    dataset = work.signal_pass.source.open(work.data)
    site = WorkerSite(work.model, dataset, device, decoders)
    made = work.signal_pass.computer(work.signals, site)
    waited = 0.0
    with made as compute, Claims(work.claims) as claims:
        while left := work.missing():
            unit = next((i for i in left if claims.take(f"{i:05d}")), None)
            if unit is None:
                waited += POLL
                if waited == PATIENCE:
                    who = claims.whose(f"{left[0]:05d}")
                    print(f"features: unit {left[0]} is waited for: {who} is at it", flush=True)
                time.sleep(POLL)
                continue
            tell.begun(unit)
            examples = [dataset.examples[row] for row in work.units.rows[unit]]
            values, valid = compute(examples, tell.rows)
            _write(work, unit, values, valid)
            claims.release(f"{unit:05d}")


def _write(work: PassWork, unit: int, values: Sequence[np.ndarray], valid: np.ndarray) -> None:
    """Write what is still missing: another worker may have taken the unit when this claim was
    void.
    """
    for signal, folder, value in zip(work.signals, work.folders, values, strict=True):
        stored = value.astype(signal.dtype)
        while folder.is_dir() and not has_shard(folder, unit):  # else the artifact is made
            with suppress(FileNotFoundError):  # a new leader swept the folder: once more
                write_shard(folder, unit, stored, valid)


class PassProgress:
    """Progress bar over the rows of the pass, whichever process computes them."""

    def __init__(self, work: PassWork, bar: Any) -> None:
        self.work = work
        self.bar = bar
        self.sizes = {i: len(work.units.rows[i]) for i in work.missing()}
        self.under_way: dict[int, tuple[int, int]] = {}
        """worker -> unit, rows of it."""
        self._looked = 0.0
        self._left = set(self.sizes)

    def begun(self, unit: int, worker: int = 0) -> None:
        """``worker`` starts unit ``unit``."""
        self.under_way[worker] = (unit, 0)
        self.show(look=True)

    def rows(self, count: int, worker: int = 0) -> None:
        """``worker`` finished ``count`` more rows of its unit."""
        unit, before = self.under_way[worker]
        self.under_way[worker] = (unit, before + count)
        self.show()

    def lost(self, worker: int) -> int | None:
        """``worker`` has ended; returns the unit that it was computing, or None."""
        unit, _ = self.under_way.pop(worker, (None, 0))
        return unit

    def show(self, *, look: bool = False) -> None:
        """Update the bar; every 5 seconds, or with ``look``, also count units that others
        finished.
        """
        if look or time.monotonic() - self._looked > 5:
            self._left = set(self.work.missing())
            self._looked = time.monotonic()
        done = sum(size for unit, size in self.sizes.items() if unit not in self._left)
        done += sum(rows for unit, rows in self.under_way.values() if unit in self._left)
        self.bar.update(done - self.bar.n)
