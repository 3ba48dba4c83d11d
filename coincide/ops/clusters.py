"""Loop over the clusters of an array in blocks; a cluster's rows lie scattered over a memory map.

Many clusters are gathered at a time, in row order, so that the features are read about once,
whatever the number of clusters. A cluster too large for one block is read in parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from coincide.ops.threads import map_threads

BLOCK_BYTES = 128 * 2**20
"""Features that a thread holds at once."""
_Result = TypeVar("_Result")


class LazyRows:
    """``x[rows]`` without reading it: ``x`` [N, D], ``rows`` int64 [n].

    Indexing reads the rows it names.
    """

    def __init__(self, x: Any, rows: np.ndarray) -> None:
        self.x, self.rows = x, rows
        self.shape = (len(rows), *x.shape[1:])
        self.dtype, self.ndim = x.dtype, x.ndim

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> np.ndarray:
        """``self[i:j]`` or ``self[[i, j]]`` as an array; files are read in ascending row order."""
        wanted = self.rows[index]
        order = np.argsort(wanted, kind="stable")
        found = np.empty((len(wanted), *self.shape[1:]), self.dtype)
        found[order] = self.x[wanted[order]]
        return found


def members_of(assignment: np.ndarray, clusters: int) -> list[np.ndarray]:
    """Row indices of each of ``clusters`` clusters, int64 ascending.

    ``assignment`` int [N] names each row's cluster; rows with -1 belong to none.

    Raises:
        ValueError: a row is assigned to a cluster number that does not exist.
    """
    if assignment.max(initial=-1) >= clusters:
        raise ValueError(
            f"got a row assigned to cluster {assignment.max()}; expected -1 to {clusters - 1}"
        )
    by_cluster = np.argsort(assignment, kind="stable")
    edges = np.searchsorted(assignment[by_cluster], np.arange(clusters + 1))
    return [by_cluster[a:b] for a, b in pairwise(edges)]


def each_cluster(
    work: Callable[[int, Any], _Result],
    x: Any,
    members: Sequence[np.ndarray],
    *,
    threads: int | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> dict[int, _Result]:
    """Apply ``work(i, x[members[i]])`` to every non-empty cluster i; returns i -> result.

    ``x`` [N, D] may be a memory map. Clusters above ``block_bytes`` are passed as
    :class:`LazyRows`. The results do not depend on ``threads`` or ``block_bytes``, provided that
    ``work`` itself reads its rows in parts of a fixed size.
    """
    results: dict[int, _Result] = {}

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
        yield batch[0], LazyRows(x, members[batch[0]])
        return
    together = np.concatenate([members[i] for i in batch])
    block = LazyRows(x, together)[:]
    edges = np.cumsum([0, *(len(members[i]) for i in batch)]).tolist()
    for i, (start, stop) in zip(batch, pairwise(edges), strict=True):
        yield i, block[start:stop]
