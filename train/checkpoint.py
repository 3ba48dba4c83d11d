"""Training checkpoints, used only if they are complete: the file ``complete`` is written last.

It holds the size and SHA-256 of every file. Sizes reveal a half-written checkpoint; hashes are
compared before training resumes from one.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from coincide.schema import UserError
from coincide.store import is_sealed, sealed
from coincide.store.artifact import SEAL
from coincide.system.files import fsync, sha256_file, write_json

MARKER = "complete"


@dataclass(frozen=True)
class TrainingCheckpoint:
    """A complete checkpoint and the layout in which it was written."""

    path: Path
    step: int
    world_size: int
    zero_stage: int
    seconds: float
    """Training time up to this step, over all attempts."""

    def check_layout(self, world_size: int, zero_stage: int) -> None:
        """Raise UserError for a layout that DeepSpeed cannot load: its shards belong to their
        ranks.

        Without DeepSpeed every rank holds everything, and any number of processes can resume.
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
    """Fsync every file of the checkpoint, then write the ``complete`` marker."""
    for file in _files(path):
        fsync(path / file)
    layout = TrainingCheckpoint(path, step, world_size, zero_stage, seconds)
    marker = {**asdict(layout), "path": path.name, "files": contents(path)}
    write_json(path / MARKER, sealed(marker))


def newest_complete(folder: Path, *, check: bool = False) -> TrainingCheckpoint | None:
    """The complete checkpoint with the most steps; None if there is none.

    ``check``: also compare the hashes of its files; a damaged checkpoint does not count.
    """
    found = [c for path in folder.glob("checkpoint-*") if (c := _read(path)) is not None]
    found.sort(key=lambda c: c.step, reverse=True)
    return next((c for c in found if not check or _is_sound(c.path)), None)


def damaged_checkpoints(folder: Path, newer_than: TrainingCheckpoint | None) -> list[str]:
    """Names of checkpoints newer than ``newer_than`` that have the right sizes but the wrong
    bytes.
    """
    least = newer_than.step if newer_than else -1
    found = [c for path in folder.glob("checkpoint-*") if (c := _read(path)) is not None]
    return sorted(c.path.name for c in found if c.step > least)


def sweep(folder: Path, keep: TrainingCheckpoint | None) -> list[str]:
    """Remove every checkpoint but ``keep``; returns the names of incomplete ones."""
    broken = sorted(p.name for p in folder.glob("checkpoint-*") if _read(p) is None)
    for path in folder.glob("checkpoint-*"):
        if keep is None or path != keep.path:
            shutil.rmtree(path)
    return broken


def contents(folder: Path) -> dict[str, dict[str, Any]]:
    """Name -> ``size`` and ``sha256`` of every file below ``folder``, except the marker."""
    return {
        name: {"size": size, "sha256": sha256_file(folder / name)}
        for name, size in _files(folder).items()
    }


def _marker(path: Path) -> dict[str, Any] | None:
    """Content of the marker; None if it is missing or unreadable."""
    try:
        found = json.loads((path / MARKER).read_text(encoding="utf-8"))
        good = isinstance(found.get("files"), dict) and is_sealed(found)
        return {k: v for k, v in found.items() if k != SEAL} if good else None
    except (OSError, ValueError, AttributeError):
        return None


def _read(path: Path) -> TrainingCheckpoint | None:
    marker = _marker(path)
    if marker is None:
        return None
    sizes = {n: f["size"] if isinstance(f, dict) else f for n, f in marker.pop("files").items()}
    if sizes != _files(path):
        return None
    try:
        return TrainingCheckpoint(**{**marker, "path": path})
    except TypeError:
        return None


def _is_sound(path: Path) -> bool:
    """Whether the files match the marker's hashes; markers of earlier versions only have sizes."""
    marker = _marker(path)
    written = {n: f for n, f in (marker or {"files": {}})["files"].items() if isinstance(f, dict)}
    return all(sha256_file(path / name) == f["sha256"] for name, f in written.items())


def _files(path: Path) -> dict[str, int]:
    """Name -> size in bytes of every file of the checkpoint."""
    return {
        str(p.relative_to(path)): p.stat().st_size
        for p in sorted(path.rglob("*"))
        if p.is_file() and p.name != MARKER
    }
