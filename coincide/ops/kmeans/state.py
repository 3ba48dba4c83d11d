"""Where a clustering stands, in one file: a killed one goes on from it, to the same bytes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

EVERY = 5
"""Iterations between two writings."""


@dataclass(frozen=True)
class KMeansState:
    """After ``done`` iterations."""

    done: int
    centroids: np.ndarray
    """float32 [K, D], the next to assign to."""
    nearest: np.ndarray
    """int64 [N], the assignment that they are the means of."""


def read_state(path: Path | None) -> KMeansState | None:
    """What an earlier attempt left at ``path``, if anything."""
    if path is None or not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as kept:
        return KMeansState(int(kept["done"]), kept["centroids"], kept["nearest"])


def write_state(path: Path, state: KMeansState) -> None:
    """Write whole or not at all."""
    temporary = path.with_name(f".tmp-{path.name}")
    with temporary.open("wb") as file:
        np.savez(file, done=state.done, centroids=state.centroids, nearest=state.nearest)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
