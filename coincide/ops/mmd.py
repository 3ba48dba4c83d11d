"""Greedy minimisation of the maximum mean discrepancy between a subset and its cluster.

COINCIDE, section 3.3: inside a cluster, grow the subset S by the row that minimises

    MMD²(C, S) = mean K(C, C) + mean K(S, S) - 2 mean K(C, S),   K(p, q) = exp(-|p - q|² / 2γ²).

The released code rebuilds every sum at every step, O(n m³) time in all. Only the candidate's own
terms differ between candidates, and they are kept up to date in O(n) per step here: O(m n).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from coincide.ops.arrays import as_float64

KERNEL_ROWS = 8192
"""Largest cluster whose kernel is held whole (512 MiB); larger ones compute rows on demand."""
BLOCK_ROWS = 2048
TIE = 1e-12
"""Candidates this close are tied: rounding, which varies with the BLAS, must never decide."""


def kernel_block(a: np.ndarray, b: np.ndarray, gamma: float) -> np.ndarray:
    """Gaussian kernel between the rows of ``a`` [m, D] and ``b`` [n, D]: float64 [m, n]."""
    if not gamma > 0:
        raise ValueError(f"got gamma {gamma}; expected a kernel width above 0 (the paper: 1.0)")
    a, b = as_float64(a), as_float64(b)
    norms_a, norms_b = np.einsum("ij,ij->i", a, a), np.einsum("ij,ij->i", b, b)
    squared = norms_a[:, None] + norms_b - 2 * (a @ b.T)
    np.maximum(squared, 0, out=squared)
    return np.exp(squared / (-2 * gamma**2))


def gaussian_kernel(x: np.ndarray, gamma: float) -> np.ndarray:
    """``exp(-|x_p - x_q|² / 2γ²)`` for the rows of ``x`` [n, D]: float64 [n, n], diagonal 1.

    float64 because fp16 arithmetic changes half of the greedy order (measured); the stored
    features stay fp16 and are up-cast.
    """
    x = as_float64(x)
    kernel = kernel_block(x, x, gamma)
    np.fill_diagonal(kernel, 1.0)
    return kernel


def kernel_row_sums(
    x: np.ndarray, gamma: float, *, include_diagonal: bool = True, block_rows: int = BLOCK_ROWS
) -> np.ndarray:
    """Row sums of ``gaussian_kernel(x, gamma)``, float64 [n], holding one block at a time."""
    sums = np.zeros(len(x))
    for i in range(0, len(x), block_rows):
        rows = as_float64(x[i : i + block_rows])
        for j in range(0, len(x), block_rows):
            block = kernel_block(rows, rows if i == j else x[j : j + block_rows], gamma)
            if i == j:
                np.fill_diagonal(block, float(include_diagonal))
            sums[i : i + block_rows] += block.sum(1)
    return sums


def greedy_mmd(kernel: np.ndarray, m: int) -> np.ndarray:
    """The ``m`` rows that greedily minimise MMD² to all ``n``, int64 [m] in the order chosen.

    Exact, O(m n), ties to the lowest index. ``kernel``: float64 [n, n], symmetric.

    Raises:
        ValueError: ``m`` is not in ``0..n``.
    """
    return _greedy(kernel.mean(axis=0), np.diag(kernel), kernel.__getitem__, m)


def greedy_mmd_rows(
    x: np.ndarray, gamma: float, m: int, *, kernel_rows: int = KERNEL_ROWS
) -> np.ndarray:
    """``greedy_mmd(gaussian_kernel(x, gamma), m)`` for the rows of ``x`` [n, D] of any number.

    Above ``kernel_rows`` rows the kernel is never held: the row of each chosen example is
    computed when it is chosen. The order is the same.
    """
    if len(x) <= kernel_rows:
        return greedy_mmd(gaussian_kernel(x, gamma), m)

    def row(chosen: int) -> np.ndarray:
        one = x[chosen : chosen + 1]
        parts = range(0, len(x), BLOCK_ROWS)
        return np.concatenate([kernel_block(one, x[j : j + BLOCK_ROWS], gamma)[0] for j in parts])

    block_rows = min(BLOCK_ROWS, kernel_rows)
    means = kernel_row_sums(x, gamma, block_rows=block_rows) / len(x)
    return _greedy(means, np.ones(len(x)), row, m)


def _greedy(
    mean: np.ndarray, diagonal: np.ndarray, row: Callable[[int], np.ndarray], m: int
) -> np.ndarray:
    """Pick argmin_j (Σ_{s∈S} K_js + K_jj / 2) / (|S| + 1) - mean_j: MMD² less what all share."""
    if not 0 <= m <= len(mean):
        raise ValueError(f"got m = {m} picks; expected 0 to the {len(mean)} rows of the cluster")
    chosen = np.empty(m, np.int64)
    to_subset, free = np.zeros(len(mean)), np.ones(len(mean), bool)
    for step in range(m):
        cost = np.where(free, (to_subset + diagonal / 2) / (step + 1) - mean, np.inf)
        pick = int(np.argmax(cost <= cost.min() + TIE))
        chosen[step], free[pick] = pick, False
        to_subset += row(pick)
    return chosen
