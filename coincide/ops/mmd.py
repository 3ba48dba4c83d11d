"""Greedy minimisation of the maximum mean discrepancy between a subset and its cluster.

COINCIDE, section 3.3: inside a cluster, grow the subset S by the row that minimises

    MMD²(C, S) = mean K(C, C) + mean K(S, S) - 2 mean K(C, S),   K(p, q) = exp(-|p - q|² / 2γ²).

The released code rebuilds every sum at every step, O(n m³) time in all. Only the candidate's own
terms differ between candidates, and they are kept up to date in O(n) per step here: O(m n).

The order in which rows are taken does not depend on how many are taken. So where a cluster's kernel
can be held it is computed once, for its density and for the order of all its rows; only of larger
clusters are kernel rows computed again, those of the rows taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from coincide.ops.kernel import gaussian_kernel, kernel_row_sums
from coincide.ops.kernel_rows import KernelRows

KERNEL_ROWS = 4096
"""Largest cluster whose kernel is held whole (128 MiB)."""
TIE = 1e-12
"""Candidates this close are tied: rounding, which varies with the BLAS, must never decide."""


@dataclass(frozen=True)
class ClusterKernel:
    """What is kept of the kernel of a cluster with n rows."""

    sums: np.ndarray
    """float64 [n]: sum of each row of the kernel without its diagonal."""
    order: np.ndarray | None
    """All rows in the order in which :func:`greedy_mmd` takes them; None if the kernel was too
    large to hold, or the order was not asked for."""


def cluster_kernel(
    x: Any, gamma: float, *, order: bool = True, kernel_rows: int = KERNEL_ROWS
) -> ClusterKernel:
    """Kernel row sums of ``x`` [n, D] and, for at most ``kernel_rows`` rows, the greedy order."""
    if not order or len(x) > kernel_rows:
        return ClusterKernel(kernel_row_sums(x, gamma, include_diagonal=False), None)
    kernel = np.empty((len(x), len(x)))
    sums = kernel_row_sums(x, gamma, include_diagonal=False, out=kernel)
    np.fill_diagonal(kernel, 1.0)
    return ClusterKernel(sums, _greedy((sums + 1) / len(x), kernel.__getitem__, len(x)))


def greedy_mmd(kernel: np.ndarray, m: int) -> np.ndarray:
    """The ``m`` rows that greedily minimise MMD² to all n rows: int64 [m] in the order chosen.

    ``kernel`` float64 [n, n], symmetric. Exact, O(m n); ties to the lowest index.

    Raises:
        ValueError: ``m`` is not in ``0..n``.
    """
    return _greedy(kernel.mean(axis=0), kernel.__getitem__, m, np.diag(kernel))


def greedy_mmd_rows(
    x: Any,
    gamma: float,
    m: int,
    *,
    kernel_rows: int = KERNEL_ROWS,
    sums: np.ndarray | None = None,
) -> np.ndarray:
    """``greedy_mmd(gaussian_kernel(x, gamma), m)`` for any number of rows ``x`` [n, D].

    Above ``kernel_rows`` rows the kernel is never held whole: the kernel rows of the chosen
    examples are computed one after the other (:class:`KernelRows`), to the same order. ``sums``
    float64 [n]: those of :func:`cluster_kernel`, if already known.
    """
    if len(x) <= kernel_rows:
        return greedy_mmd(gaussian_kernel(x, gamma), m)
    if sums is None:
        sums = kernel_row_sums(x, gamma, include_diagonal=False)
    mean = (sums + 1) / len(x)
    return _greedy(mean, KernelRows(x, gamma, mean, held=kernel_rows**2 // len(x)), m)


def _greedy(
    mean: np.ndarray, row_of: Callable[[int], np.ndarray], m: int, diagonal: Any = 1.0
) -> np.ndarray:
    """Pick argmin_j (Σ_{s∈S} K_js + K_jj / 2) / (|S| + 1) - mean_j: MMD² less what all share."""
    if not 0 <= m <= len(mean):
        raise ValueError(f"got m = {m} picks; expected 0 to the {len(mean)} rows of the cluster")
    chosen = np.empty(m, np.int64)
    mean, half, to_subset = mean.copy(), diagonal / 2, np.zeros(len(mean))
    cost = np.empty(len(mean))
    for step in range(m):
        np.add(to_subset, half, out=cost)
        cost /= step + 1
        cost -= mean
        pick = int(np.argmax(cost <= cost.min() + TIE))
        chosen[step], mean[pick] = pick, -np.inf  # at infinite cost from here on
        to_subset += row_of(pick)
    return chosen
