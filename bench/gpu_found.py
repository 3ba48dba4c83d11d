"""Where a part of ``bench.gpu`` runs, what it found so far, and sizes that fit into its time."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from coincide.checks.flops import PEAKS
from coincide.store.provenance import environment


@dataclass(frozen=True)
class Setting:
    """Device, shapes and time of one part of the bench."""

    device: str
    shape: str
    """``full`` or ``tiny``."""
    seconds: float
    """To plan sizes for."""
    folder: Path
    """Empty, removed afterwards."""

    @property
    def full(self) -> bool:
        return self.shape == "full"

    def finish(self) -> None:
        """Wait until the device has done what it was given."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def share_of_peak(self, flops_per_second: float) -> float | None:
        """Of the data sheet's dense 16-bit rate; None for a device that is not in the list."""
        if self.device != "cuda":
            return None
        name = torch.cuda.get_device_name()
        known = next((entry for entry in PEAKS if entry in name), None)
        return None if known is None else flops_per_second / PEAKS[known]

    def environment(self) -> dict[str, Any]:
        """Versions, commit and hardware; of a GPU that is used its memory and CUDA's version."""
        found = dict(environment())
        if self.device == "cuda" and torch.cuda.is_available():
            memory = torch.cuda.get_device_properties(0).total_memory / 2**30
            more = {"gpu_memory": f"{memory:.0f} GiB"}
            found["versions"] = {**found["versions"], "cuda": torch.version.cuda}
            found["hardware"] = {**found["hardware"], **more}
        return found


@dataclass
class Found:
    """What a part measured; every ``put`` is on disk at once, so that a stopped part keeps it."""

    into: Path | None
    held: dict[str, Any] = field(default_factory=dict)

    def put(self, **more: Any) -> None:
        """Add entries; of a dictionary (``figures``, ``compared``) its items."""
        for name, value in more.items():
            if isinstance(value, dict):
                value = {**self.held.get(name, {}), **value}
            self.held[name] = value
        if self.into:
            new = self.into.with_suffix(".new")
            new.write_text(json.dumps(self.held), encoding="utf-8")
            os.replace(new, self.into)

    def cut(self, what: str, wanted: int, fits: int) -> int:
        """``fits``, at most ``wanted``; a smaller one is written down."""
        if fits >= wanted:
            return wanted
        said = f"{what}: {fits:,} of {wanted:,}, as many as fit into the time"
        self.put(cut=[*self.held.get("cut", []), said])
        return fits


def fits(took: float, probe: int, seconds: float, *, power: float = 1.0) -> int:
    """The size that takes ``seconds`` where ``probe`` took ``took`` and time grows with ``power``;
    at least ``probe``, which has run already."""
    return max(probe, int(probe * (seconds / max(took, 1e-9)) ** (1 / power)))


def until_it_fits(work: Callable[[int], Any], size: int, found: Found, what: str) -> Any:
    """``work(size)``, halved until it fits into the device's memory; says so.

    Raises torch.OutOfMemoryError if one does not fit.
    """
    while True:
        try:
            return work(size)
        except torch.OutOfMemoryError:
            if size == 1:
                raise
        size //= 2
        torch.cuda.empty_cache()
        said = f"{what}: {size:,}, twice as many do not fit into the device's memory"
        found.put(cut=[*found.held.get("cut", []), said])
