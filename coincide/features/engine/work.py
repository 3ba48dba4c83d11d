"""A pass as its workers see it: shards, who does them, and how far all of them are."""

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
from coincide.features.engine.contract import SignalPass
from coincide.features.engine.shards import has_shard, write_shard
from coincide.schema import Signal

LEADER = "pass"
"""The claim of the process that merges the shards into artifacts."""
PATIENCE = 10.0
"""Seconds after which it is said whom a worker without a free shard waits for."""
POLL = 0.5
"""Seconds between two looks at shards that others are at."""


class ProgressListener(Protocol):
    """Who hears of progress: the bar, or the parent of a worker."""

    def begun(self, shard: int) -> None: ...
    def rows(self, count: int) -> None: ...


@dataclass(frozen=True)
class PassWork:
    """Picklable description of one feature pass, sent to every worker."""

    signal_pass: SignalPass
    signals: tuple[Signal, ...]
    folders: tuple[Path, ...]
    """Where the shards of each signal go."""
    claims: Path
    """The folder of the claims."""
    data: Path
    """The data artifact."""
    model: Path
    """The model's folder."""
    rows: int
    shard_rows: int

    @cached_property
    def shards(self) -> list[range]:
        """The rows of each shard."""
        step = self.shard_rows
        return [range(i, min(i + step, self.rows)) for i in range(0, self.rows, step)]

    def missing_shards(self) -> list[int]:
        """Shards that some signal lacks; none once the artifacts are made."""
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
    """``shard_rows`` and ``rows`` of a build that was begun in ``folder``."""
    with suppress(FileNotFoundError):
        found: Mapping[str, int] = json.loads((folder / "layout.json").read_text(encoding="utf-8"))
        return found
    return None


def do_shards(work: PassWork, device: str, decoders: int, tell: ProgressListener) -> None:
    """Compute one free shard after the other until all are there, done here or elsewhere."""
    dataset = work.signal_pass.source.open(work.data)
    made = work.signal_pass.computer(work.signals, work.model, dataset, device, decoders)
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
    """Write what is still missing: another worker may have taken over a claim grown old."""
    for signal, folder, value in zip(work.signals, work.folders, values, strict=True):
        stored = value.astype(signal.dtype)
        while folder.is_dir() and not has_shard(folder, shard):  # else the artifact is made
            with suppress(FileNotFoundError):  # a new leader swept the folder: once more
                write_shard(folder, shard, stored, valid)


class PassProgress:
    """How many rows of the pass are done, by whom ever, on a progress bar."""

    def __init__(self, work: PassWork, bar: Any) -> None:
        self.work = work
        self.bar = bar
        self.sizes = {i: len(work.shards[i]) for i in work.missing_shards()}
        self.under_way: dict[int, tuple[int, int]] = {}
        """worker -> shard, rows of it."""
        self._looked = 0.0
        self._left = set(self.sizes)

    def begun(self, shard: int, worker: int = 0) -> None:
        """``worker`` starts with ``shard``."""
        self.under_way[worker] = (shard, 0)
        self.show(look=True)

    def rows(self, count: int, worker: int = 0) -> None:
        """``worker`` did ``count`` more rows of its shard."""
        shard, before = self.under_way[worker]
        self.under_way[worker] = (shard, before + count)
        self.show()

    def lost(self, worker: int) -> int | None:
        """``worker`` is no more; the shard that it was at."""
        shard, _ = self.under_way.pop(worker, (None, 0))
        return shard

    def show(self, *, look: bool = False) -> None:
        """Move the bar; ``look`` at the folders for shards done elsewhere, now and then."""
        if look or time.monotonic() - self._looked > 5:
            self._left = set(self.work.missing_shards())
            self._looked = time.monotonic()
        done = sum(size for shard, size in self.sizes.items() if shard not in self._left)
        done += sum(rows for shard, rows in self.under_way.values() if shard in self._left)
        self.bar.update(done - self.bar.n)
