"""Exact nearest neighbours in blocks: no N x N matrix is held, and each pair is compared once."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from coincide.ops.arrays import TILE, require_finite_rows, tiles
from coincide.ops.threads import map_threads

if TYPE_CHECKING:
    import torch

    Tile = tuple[torch.Tensor, torch.Tensor]
    """Rows float64 [TILE, D] and their squared lengths [TILE]."""

Metric = Literal["sqeuclidean", "cosine"]
_RESOLUTION = 1e-12
"""Squared distances below this share of |a|² + |b|² are rounding errors: the rows are equal."""
_NONE = np.iinfo(np.int64).max


def knn(
    x: Any,
    k: int,
    *,
    metric: Metric = "sqeuclidean",
    chunk_rows: int | None = None,
    device: str = "cpu",
    threads: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` nearest other rows of every row of ``x`` [N, D], nearest first.

    Distances are ``|a - b|²`` or ``1 - cos(a, b)``, computed in float64. A row is not its own
    neighbour, but an equal row is (at distance 0); ties go to the lowest row. ``x`` may be a
    memmap; each thread compares ``chunk_rows`` rows at once with those after them. ``chunk_rows``,
    ``threads`` and ``device`` do not change the result. On a GPU one thread works, with more rows
    at once, so that ``x`` is read less often.

    Returns:
        ``neighbors`` int64 [N, k] and ``distances`` float32 [N, k].

    Raises:
        ValueError: NaN or Inf rows, zero rows under ``cosine``, ``k`` not in 1..N-1.
    """
    import torch

    if metric not in ("sqeuclidean", "cosine"):
        raise ValueError(f"got metric {metric!r}; choices: sqeuclidean, cosine")
    require_finite_rows(x, zero_allowed=metric == "sqeuclidean", chunk_rows=chunk_rows)
    if not 1 <= k < len(x):
        raise ValueError(f"got k = {k} neighbours for {len(x)} rows; expected 1 to {len(x) - 1}")
    held = chunk_rows or (4 if device == "cpu" else 32) * TILE
    step = -(-held // TILE) * TILE
    best = torch.full((-(-len(x) // TILE) * TILE, k), _NONE, dtype=torch.int64, device=device)
    lock = Lock()

    def compare(start: int) -> None:
        for first, found in _comparisons(x, start, step, k, metric, device):
            rows = slice(first, first + TILE)
            with lock:
                pool = torch.cat([best[rows], found], dim=1)
                best[rows] = pool.topk(k, dim=1, largest=False).values

    map_threads(compare, range(0, len(x), step), threads if device == "cpu" else 1)
    ranked = best[: len(x)].cpu()
    return (ranked & 0xFFFFFFFF).numpy(), (ranked >> 32).int().view(torch.float32).numpy()


def _comparisons(x: Any, start: int, rows: int, k: int, metric: Metric, device: str) -> Any:
    """The rows ``start..start + rows`` against themselves and all behind them.

    Yields ``(first row of a tile, keys of its k nearest in another tile)``.
    """
    space = _Space(len(x), device)
    firsts = range(start, min(start + rows, len(x)), TILE)
    queries = [(first, _prepared(x, first, metric, device)) for first in firsts]
    for other in range(start, len(x), TILE):
        tile = queries[(other - start) // TILE][1] if other < start + rows else None
        others = _prepared(x, other, metric, device) if tile is None else tile
        for first, query in queries:
            if first > other:
                break
            distances = space.distances(first, query, other, others, metric)
            yield first, space.nearest(distances, other, k)
            if first != other:
                yield other, space.nearest(distances.T, first, k)


def _prepared(x: Any, first: int, metric: Metric, device: str) -> Tile:
    """The tile that begins at row ``first``, zeros behind the last row."""
    from torch.nn.functional import normalize

    ((_, tile),) = tiles(x[first : first + TILE], TILE, device)
    rows = tile.double()
    rows = normalize(rows) if metric == "cosine" else rows
    return rows, (rows * rows).sum(1)


class _Space:
    """Reused memory for intermediate results between two tiles; allocating anew is slower."""

    def __init__(self, rows: int, device: str) -> None:
        import torch

        def tile(dtype: torch.dtype) -> torch.Tensor:
            return torch.zeros(TILE, TILE, dtype=dtype, device=device)

        self.rows, self.columns = rows, torch.arange(TILE, device=device)
        self.squared, self.rounding = tile(torch.float64), tile(torch.float64)
        self.single, self.keys = tile(torch.float32), tile(torch.int64)

    def distances(
        self, first: int, query: Tile, other: int, others: Tile, metric: Metric
    ) -> torch.Tensor:
        """float32 [TILE, TILE] of the tiles that begin at two rows; a row itself and padding: inf.

        For unit rows half of the squared distance is 1 - cosine.
        """
        import torch

        (a, lengths_a), (b, lengths_b) = query, others
        torch.add(lengths_a[:, None], lengths_b, out=self.squared)
        torch.mul(self.squared, _RESOLUTION, out=self.rounding)
        self.squared.addmm_(a, b.T, alpha=-2)
        self.squared.masked_fill_(self.squared <= self.rounding, 0)
        if metric == "cosine":
            self.squared.div_(2)
        self.squared[self.rows - first :] = torch.inf
        self.squared[:, self.rows - other :] = torch.inf
        if first == other:
            self.squared.fill_diagonal_(torch.inf)
        return self.single.copy_(self.squared)

    def nearest(self, distances: torch.Tensor, other: int, k: int) -> torch.Tensor:
        """Keys int64 [TILE, k] of the nearest columns, which are the rows from ``other`` on.

        A key sorts by distance, then by row: the bits of a float >= 0 keep its order.
        """
        import torch

        self.keys.copy_(distances.view(torch.int32))
        self.keys.bitwise_left_shift_(32).bitwise_or_(self.columns + other)
        return self.keys.topk(min(k, TILE), dim=1, largest=False).values
