"""The state of a clustering in one file: a killed clustering resumes from it, to the same bytes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

EVERY = 5
"""Iterations between two writes."""


@dataclass(frozen=True)
class KMeansState:
    """The clustering after ``done`` iterations."""

    done: int
    centroids: np.ndarray
    """float32 [K, D], the centroids for the next assignment."""
    nearest: np.ndarray
    """int64 [N], the assignment whose means they are."""


def read_state(path: Path | None) -> KMeansState | None:
    """The state in the file ``path``; None without a path or a file."""
    if path is None or not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as kept:
        return KMeansState(int(kept["done"]), kept["centroids"], kept["nearest"])


def write_state(path: Path, state: KMeansState) -> None:
    """Write ``state`` to ``path`` atomically."""
    temporary = path.with_name(f".tmp-{path.name}")
    with temporary.open("wb") as file:
        np.savez(file, done=state.done, centroids=state.centroids, nearest=state.nearest)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
