"""Heavy-tailed features with a known assignment, in shards as the feature pass writes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coincide.features.engine.shards import ShardedArray, write_shard
from coincide.ops.clusters import LazyRows, members_of

PARTS = 4
"""Equal parts of the data that growth is measured on: 1, 2 and all of them."""


def cluster_sizes(rows: int, clusters: int, largest: int) -> np.ndarray:
    """Sizes ``largest`` · rank^-a, a such that they sum to ``rows``; int64, descending."""
    rank, low, high = np.arange(1, clusters + 1), 0.0, 50.0
    for _ in range(60):
        middle = (low + high) / 2
        sizes = np.maximum(1, largest * rank**-middle).astype(np.int64)
        low, high = (middle, high) if sizes.sum() > rows else (low, middle)
    sizes = np.maximum(1, largest * rank**-high).astype(np.int64)
    each, rest = divmod(rows - sizes.sum(), clusters - 1)
    sizes[1:] += each
    sizes[1 : 1 + rest] += 1
    if each < 0 or sizes.max() > largest:
        raise SystemExit(f"{clusters} clusters of at most {largest} cannot have {rows} rows")
    return sizes


def make(folder: Path, part: np.ndarray, parts: int, width: int, shard_rows: int = 1024) -> None:
    """Unit rows around cluster centres, of differing spread, scattered over the shards.

    Each of the ``parts`` has clusters of the sizes ``part`` of its own, and its rows in succession.
    """
    import torch

    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    own = np.repeat(np.arange(len(part), dtype=np.int32), part)
    assignment = np.concatenate([i * len(part) + rng.permutation(own) for i in range(parts)])
    clusters = parts * len(part)
    centres = torch.nn.functional.normalize(torch.randn(clusters, width))
    centres += torch.empty(clusters, 1).uniform_(0.8, 1.2) * centres[:1]
    spread = torch.empty(clusters, 1).uniform_(0.5, 1.0)
    directions = torch.randn(256, width) * (torch.arange(1, 257) ** -0.7)[:, None] / width**0.5 / 2
    sums = torch.zeros(clusters, width)
    folder.mkdir()
    for shard, start in enumerate(range(0, len(assignment), shard_rows)):
        at = torch.from_numpy(assignment[start : start + shard_rows]).long()
        noise = torch.randn(len(at), 256) @ directions
        noise += torch.randn(len(at), width) * 0.3 / width**0.5
        rows = torch.nn.functional.normalize(centres[at] + spread[at] * noise)
        sums.index_add_(0, at, rows)
        write_shard(folder, shard, rows.half().numpy(), np.ones(len(at), bool))
    np.save(folder / "assignment.npy", assignment)
    np.save(folder / "centroids.npy", torch.nn.functional.normalize(sums).numpy())


@dataclass(frozen=True)
class Made:
    """What the steps read."""

    x: Any
    assignment: np.ndarray
    centroids: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        return np.bincount(self.assignment, minlength=len(self.centroids))

    def members(self) -> list[np.ndarray]:
        return members_of(self.assignment, len(self.centroids))


def load(folder: Path, parts: int | None) -> Made:
    """All of it, or the first of its ``PARTS``."""
    x, assignment = ShardedArray(folder), np.load(folder / "assignment.npy")
    centroids = np.load(folder / "centroids.npy", mmap_mode="r")
    if parts is None:
        return Made(x, assignment, centroids)
    rows = np.arange(len(x) * parts // PARTS)
    return Made(LazyRows(x, rows), assignment[rows], centroids[: len(centroids) * parts // PARTS])
