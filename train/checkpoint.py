"""Checkpoints that are trusted only when whole: the ``complete`` marker is written last."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from coincide.files import write_json
from coincide.schema import UserError

MARKER = "complete"


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint and the layout it was written in."""

    path: Path
    step: int
    world_size: int
    zero_stage: int
    seconds: float
    """Training time up to here, over all attempts."""

    def check_layout(self, world_size: int, zero_stage: int) -> None:
        """Refuse a layout that DeepSpeed cannot load: its shards belong to their ranks.

        Without DeepSpeed every rank holds everything, and any number of processes can go on.
        """
        same_stage = self.zero_stage == zero_stage
        if same_stage and (zero_stage == 0 or self.world_size == world_size):
            return
        raise UserError(
            f"The checkpoint at step {self.step} was written by {self.world_size} process(es) with "
            f"ZeRO stage {self.zero_stage}; this run has {world_size} with stage {zero_stage} and "
            f"cannot read it. Use the same layout, or remove {self.path.parent} to start over."
        )


def mark_complete(
    path: Path, *, step: int, world_size: int, zero_stage: int, seconds: float
) -> None:
    """Fsync every file of the checkpoint, then write the marker that makes it count."""
    files = _files(path)
    for name in files:
        descriptor = os.open(path / name, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    layout = Checkpoint(path, step, world_size, zero_stage, seconds)
    write_json(path / MARKER, {**asdict(layout), "path": path.name, "files": files})


def newest_complete(folder: Path) -> Checkpoint | None:
    """The whole checkpoint with the most steps; unmarked and truncated ones do not count."""
    found = [c for path in folder.glob("checkpoint-*") if (c := _read(path)) is not None]
    return max(found, key=lambda c: c.step, default=None)


def sweep(folder: Path, keep: Checkpoint | None) -> list[str]:
    """Remove every checkpoint but ``keep``; returns the names of the half-written ones."""
    broken = sorted(p.name for p in folder.glob("checkpoint-*") if _read(p) is None)
    for path in folder.glob("checkpoint-*"):
        if keep is None or path != keep.path:
            shutil.rmtree(path)
    return broken


def _read(path: Path) -> Checkpoint | None:
    if not (path / MARKER).is_file():
        return None
    marker = json.loads((path / MARKER).read_text(encoding="utf-8"))
    if marker.pop("files") != _files(path):
        return None
    return Checkpoint(**{**marker, "path": path})


def _files(path: Path) -> dict[str, int]:
    """Size in bytes of every file of the checkpoint, by name."""
    return {
        str(p.relative_to(path)): p.stat().st_size
        for p in sorted(path.rglob("*"))
        if p.is_file() and p.name != MARKER
    }
