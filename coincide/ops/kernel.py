"""Gaussian kernel K(p, q) = exp(-|p - q|² / 2γ²) between rows, in float64, block by block.

float64, because with fp16 arithmetic half of the greedy order changes (measured). Features are
stored in fp16 and converted.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from coincide.ops.products import as_float64, products

BLOCK_ROWS = 1024
"""Rows and columns of the kernel that are computed at once."""


def kernel_block(a: np.ndarray, b: np.ndarray, gamma: float) -> np.ndarray:
    """Gaussian kernel between the rows of ``a`` [m, D] and ``b`` [n, D]: float64 [m, n].

    Raises ValueError unless ``gamma`` is above 0.
    """
    if not gamma > 0:
        raise ValueError(f"got gamma {gamma}; expected a kernel width above 0 (the paper: 1.0)")
    a, b = as_float64(a), as_float64(b)
    return kernel_of(products(a, b), squared_lengths(a), squared_lengths(b), gamma)


def squared_lengths(x: np.ndarray) -> np.ndarray:
    """``|x_p|²`` of float64 rows ``x`` [n, D]: float64 [n]."""
    return np.einsum("ij,ij->i", x, x)


def kernel_of(
    products: np.ndarray, lengths_a: np.ndarray, lengths_b: np.ndarray, gamma: float
) -> np.ndarray:
    """Gaussian kernel [m, n] from inner products and squared lengths; ``products`` is overwritten.

    ``products`` [m, n] of the rows of a and b; ``lengths_a`` [m] and ``lengths_b`` [n] are |a|² and
    |b|².
    """
    products *= -2
    products += lengths_a[:, None] + lengths_b
    np.maximum(products, 0, out=products)
    products /= -2 * gamma**2
    return np.exp(products, out=products)


def gaussian_kernel(x: np.ndarray, gamma: float) -> np.ndarray:
    """Gaussian kernel between the rows of ``x`` [n, D]: float64 [n, n], diagonal 1."""
    kernel = np.empty((len(x), len(x)))
    kernel_row_sums(x, gamma, out=kernel)
    np.fill_diagonal(kernel, 1.0)
    return kernel


def kernel_row_sums(
    x: Any,
    gamma: float,
    *,
    include_diagonal: bool = True,
    block_rows: int = BLOCK_ROWS,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Row sums of ``gaussian_kernel(x, gamma)``, float64 [n], with one block in memory at a time.

    ``out`` float64 [n, n], if given, receives the kernel with diagonal 0. The kernel is symmetric,
    so each pair of rows is computed once.
    """
    sums = np.full(len(x), float(include_diagonal))
    for i in range(0, len(x), block_rows):
        rows = as_float64(x[i : i + block_rows])
        for j in range(i, len(x), block_rows):
            block = kernel_block(rows, rows if i == j else x[j : j + block_rows], gamma)
            if i == j:
                np.fill_diagonal(block, 0.0)
            else:
                sums[j : j + block_rows] += block.sum(0)
            sums[i : i + block_rows] += block.sum(1)
            if out is not None:
                out[i : i + block_rows, j : j + block_rows] = block
                out[j : j + block_rows, i : i + block_rows] = block.T
    return sums
