"""Exact nearest neighbours, blocked so that no N x N matrix is held."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from coincide.ops.arrays import TILE, require_finite_rows, tiles

Metric = Literal["sqeuclidean", "cosine"]
_RESOLUTION = 1e-12
"""Squared distances below this share of |a|² + |b|² are rounding: the rows are equal."""


def knn(
    x: np.ndarray,
    k: int,
    *,
    metric: Metric = "sqeuclidean",
    chunk_rows: int | None = None,
    device: str = "cpu",
) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` nearest other rows of every row of ``x`` [N, D], nearest first.

    Distances are ``|a - b|²`` or ``1 - cos(a, b)``, taken in float64. A row is not its own
    neighbour, an equal row is (at distance 0); ties go to the lowest row. ``x`` may be a memmap;
    ``chunk_rows`` queries are compared per pass over ``x``, without effect on the answer.

    Returns:
        ``neighbors`` int64 [N, k] and ``distances`` float32 [N, k].

    Raises:
        ValueError: NaN or Inf rows, zero rows under ``cosine``, ``k`` not in 1..N-1.
    """
    if metric not in ("sqeuclidean", "cosine"):
        raise ValueError(f"got metric {metric!r}; choices: sqeuclidean, cosine")
    require_finite_rows(x, zero_allowed=metric == "sqeuclidean", chunk_rows=chunk_rows)
    if not 1 <= k < len(x):
        raise ValueError(f"got k = {k} neighbours for {len(x)} rows; expected 1 to {len(x) - 1}")
    step = -(-(chunk_rows or 4 * TILE) // TILE) * TILE
    found = [
        _nearest_to(x, start, min(start + step, len(x)), k, metric, device)
        for start in range(0, len(x), step)
    ]
    ranked = torch.cat(found)[: len(x)]
    distances = (ranked >> 32).int().view(torch.float32)
    return (ranked & 0xFFFFFFFF).numpy(), distances.numpy()


def _nearest_to(
    x: np.ndarray, start: int, stop: int, k: int, metric: Metric, device: str
) -> torch.Tensor:
    """Ranked keys int64 [queries, k] of the query rows ``start..stop`` against all rows."""
    queries = [(start + at, _prepare(t, metric)) for at, t in tiles(x[start:stop], None, device)]
    best = [torch.empty(TILE, 0, dtype=torch.int64, device=device) for _ in queries]
    for first, tile in tiles(x, None, device):
        others, rows = _prepare(tile, metric), torch.arange(first, first + TILE, device=device)
        for i, (query, rows_of_query) in enumerate(queries):
            distances = _squared_distances(rows_of_query, others, metric)
            distances[:, len(x) - first :] = torch.inf  # the padding of the last tile
            if query == first:
                distances.fill_diagonal_(torch.inf)  # a row itself
            pool = torch.cat([best[i], _keys(distances, rows)], dim=1)
            best[i] = pool.topk(min(k, pool.shape[1]), dim=1, largest=False).values
    return torch.cat(best)[: stop - start].cpu()


def _prepare(tile: torch.Tensor, metric: Metric) -> torch.Tensor:
    rows = tile.double()
    return torch.nn.functional.normalize(rows) if metric == "cosine" else rows


def _squared_distances(a: torch.Tensor, b: torch.Tensor, metric: Metric) -> torch.Tensor:
    """float32 [len(a), len(b)]; for unit rows half of it is 1 - cosine."""
    scale = (a * a).sum(1)[:, None] + (b * b).sum(1)
    squared = torch.addmm(scale, a, b.T, alpha=-2)
    squared.masked_fill_(squared <= scale.mul_(_RESOLUTION), 0)
    return (squared.div_(2) if metric == "cosine" else squared).float()


def _keys(distances: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Integers that sort by distance, then by row: the bits of a float >= 0 keep its order."""
    return distances.view(torch.int32).long().bitwise_left_shift_(32).bitwise_or_(rows)
