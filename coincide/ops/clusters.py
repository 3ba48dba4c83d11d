"""All clusters of an array in turn, read in blocks: their rows lie scattered over a memory map.

Clusters are gathered many at a time, in the order of the rows, so that the features are read about
once, whatever the number of clusters. What fits no block is read in parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from coincide.ops.threads import map_threads

BLOCK_BYTES = 128 * 2**20
"""Features that a thread holds at once."""
Result = TypeVar("Result")


class Rows:
    """Rows ``rows`` (int64 [n]) of ``x`` [N, D], in that order, read when they are asked for."""

    def __init__(self, x: Any, rows: np.ndarray) -> None:
        self.x, self.rows = x, rows
        self.shape = (len(rows), *x.shape[1:])
        self.dtype, self.ndim = x.dtype, x.ndim

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> np.ndarray:
        """``rows[i:j]`` or ``rows[[i, j]]`` in memory; read in ascending order."""
        wanted = self.rows[index]
        order = np.argsort(wanted, kind="stable")
        found = np.empty((len(wanted), *self.shape[1:]), self.dtype)
        found[order] = self.x[wanted[order]]
        return found


def members_of(assignment: np.ndarray, clusters: int) -> list[np.ndarray]:
    """Rows of each cluster, int64, ascending; rows assigned -1 are in none.

    Raises:
        ValueError: a row is assigned to a cluster that is not there.
    """
    if assignment.max(initial=-1) >= clusters:
        raise ValueError(
            f"got a row assigned to cluster {assignment.max()}; expected -1 to {clusters - 1}"
        )
    by_cluster = np.argsort(assignment, kind="stable")
    edges = np.searchsorted(assignment[by_cluster], np.arange(clusters + 1))
    return [by_cluster[a:b] for a, b in pairwise(edges)]


def each_cluster(
    work: Callable[[int, Any], Result],
    x: Any,
    members: Sequence[np.ndarray],
    *,
    threads: int | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> dict[int, Result]:
    """``work(i, rows)`` of each cluster i that is not empty, ``rows`` = ``x[members[i]]``.

    ``x`` [N, D] may be a memory map. Rows above ``block_bytes`` come as :class:`Rows`. Neither
    ``threads`` nor ``block_bytes`` shows in the answer where ``work`` reads in parts of one size.
    """
    results: dict[int, Result] = {}

    def run(batch: Sequence[int]) -> None:
        for i, rows in _gather(x, members, batch, block_bytes):
            results[i] = work(i, rows)

    sizes = [len(rows) for rows in members]
    map_threads(run, _batches(sizes, _row_limit(x, block_bytes)), threads)
    return results


def _row_limit(x: Any, block_bytes: int) -> int:
    return max(1, block_bytes // (x.shape[1] * x.dtype.itemsize))


def _batches(sizes: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Non-empty clusters, the largest first, as many together as have ``limit`` rows."""
    batch: list[int] = []
    taken = 0
    for i in np.argsort(-np.asarray(sizes), kind="stable").tolist():
        if sizes[i] == 0:
            break
        if batch and taken + sizes[i] > limit:
            yield batch
            batch, taken = [], 0
        batch.append(i)
        taken += sizes[i]
    if batch:
        yield batch


def _gather(
    x: Any, members: Sequence[np.ndarray], batch: Sequence[int], block_bytes: int
) -> Iterator[tuple[int, Any]]:
    """The rows of each cluster of the batch, read together."""
    if len(batch) == 1 and len(members[batch[0]]) > _row_limit(x, block_bytes):
        yield batch[0], Rows(x, members[batch[0]])
        return
    together = np.concatenate([members[i] for i in batch])
    block = Rows(x, together)[:]
    edges = np.cumsum([0, *(len(members[i]) for i in batch)]).tolist()
    for i, (start, stop) in zip(batch, pairwise(edges), strict=True):
        yield i, block[start:stop]
