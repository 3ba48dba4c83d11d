"""Rows of a kernel that is too large for memory, computed as the greedy order asks for them.

Computing one kernel row is limited by reading ``x``; computing some tens of rows together takes
hardly longer. So the next picks are predicted by continuing the greedy choice on approximate kernel
rows (from the first principal components of ``x``), and the predicted rows are computed exactly,
together. A wrong prediction only costs time: every row that is returned is exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from coincide.ops.kernel import BLOCK_ROWS, kernel_of, squared_lengths
from coincide.ops.products import as_float64, products

AHEAD = 16
"""Kernel rows that are computed together."""
COMPONENTS = 256
"""Principal components of the approximation."""
SAMPLE = 2 * COMPONENTS
"""Rows that the principal components are fitted to."""


class KernelRows:
    """``kernel_rows(i)`` is row i of the kernel of ``x``, float64 [n]; also marks i as taken.

    ``x`` [n, D]; ``mean`` [n] is the mean of each kernel row; up to ``held`` rows are cached.
    """

    def __init__(self, x: Any, gamma: float, mean: np.ndarray, held: int) -> None:
        self.x, self.gamma = x, gamma
        self.sketch = Sketch(x, gamma)
        self.lengths = np.empty(len(mean))
        for j in range(0, len(x), BLOCK_ROWS):
            self.lengths[j : j + BLOCK_ROWS] = squared_lengths(as_float64(x[j : j + BLOCK_ROWS]))
        self.mean = mean.astype(np.float32)
        self.to_subset = np.zeros(len(mean), np.float32)
        self.taken = 0
        self.table = np.empty((min(max(held, AHEAD), len(mean)), len(mean)))
        self.place: dict[int, int] = {}
        """Rows in the table that are not yet taken."""

    def __call__(self, row: int) -> np.ndarray:
        if row not in self.place:
            self._compute(self._guess(row))
        exact = self.table[self.place.pop(row)]
        self.to_subset += exact
        self.mean[row] = -np.inf
        self.taken += 1
        return exact

    def _cost(self, to_subset: np.ndarray, mean: np.ndarray, taken: int) -> np.ndarray:
        return (to_subset + np.float32(0.5)) / np.float32(taken + 1) - mean

    def _guess(self, row: int) -> list[int]:
        """``row`` and the rows that are likely to be taken after it and are not held."""
        to_subset, mean, guessed = self.to_subset.copy(), self.mean.copy(), [row]
        for ahead in range(1, 3 * AHEAD):
            mean[row] = -np.inf
            held = self.place.get(row)
            to_subset += self.sketch.row(row) if held is None else self.table[held]
            cost = self._cost(to_subset, mean, self.taken + ahead)
            row = int(cost.argmin())
            if len(guessed) == len(self.table) or np.isinf(cost[row]):
                break
            if row not in self.place:
                guessed.append(row)
            if len(guessed) == AHEAD:
                break
        return guessed

    def _compute(self, rows: list[int]) -> None:
        places, queries = self._free(len(rows)), as_float64(self.x[rows])
        for j in range(0, len(self.x), BLOCK_ROWS):
            here = slice(j, j + BLOCK_ROWS)
            block = products(queries, as_float64(self.x[here]))
            block = kernel_of(block, self.lengths[rows], self.lengths[here], self.gamma)
            self.table[places, here] = block
        self.place.update(zip(rows, places, strict=True))

    def _free(self, count: int) -> list[int]:
        """Places in the table: unused ones, then those of the rows least likely to be taken."""
        short = len(self.place) + count - len(self.table)
        if short > 0:
            cost = self._cost(self.to_subset, self.mean, self.taken)
            for j in sorted(self.place, key=cost.__getitem__)[-short:]:
                del self.place[j]
        return sorted(set(range(len(self.table))) - set(self.place.values()))[:count]


class Sketch:
    """``x`` [n, D] projected onto its first principal components, float32."""

    def __init__(self, x: Any, gamma: float) -> None:
        import torch

        # evenly spaced rows, centred
        sample = torch.from_numpy(x[:: -(-len(x) // SAMPLE)]).float()
        middle = sample.mean(0)
        sample -= middle
        # principal components of the sample, from its Gram matrix
        values, vectors = torch.linalg.eigh(sample @ sample.T)
        # the strongest ones, without those that are only rounding
        strongest = values.argsort(descending=True)[:COMPONENTS]
        strongest = strongest[values[strongest] > 1e-6 * values.max()]
        # as directions in feature space, of unit length
        basis = sample.T @ (vectors[:, strongest] / values[strongest].sqrt())
        # every row in these components, and its squared length
        self.components = torch.empty(len(x), len(strongest))
        self.norms = np.empty(len(x), np.float32)
        for j in range(0, len(x), BLOCK_ROWS):
            rows = torch.from_numpy(x[j : j + BLOCK_ROWS]).float() - middle
            self.components[j : j + BLOCK_ROWS] = rows @ basis
            self.norms[j : j + BLOCK_ROWS] = rows.square().sum(1).numpy()
        self.scale = np.float32(-0.5 / gamma**2)

    def row(self, row: int) -> np.ndarray:
        """Approximate kernel row, float32 [n]: what the components miss of two rows counts as
        orthogonal.
        """
        near = (self.components @ self.components[row]).numpy()
        squared = self.norms + self.norms[row] - 2 * near
        np.maximum(squared, 0, out=squared)
        squared *= self.scale
        return np.exp(squared, out=squared)
