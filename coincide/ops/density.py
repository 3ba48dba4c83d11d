"""Density of a cluster: how similar its members are to each other (COINCIDE, section 3.2)."""

from __future__ import annotations

from typing import Any

import numpy as np

from coincide.ops.kernel import BLOCK_ROWS, kernel_row_sums


def cluster_density(
    x: Any, gamma: float, *, include_diagonal: bool = True, block_rows: int = BLOCK_ROWS
) -> float:
    """Mean Gaussian kernel over the pairs of members ``x`` [n, D]; in (0, 1], 1 for a singleton.

    ``D = mean_{p,q} exp(-|x_p - x_q|² / 2γ²)``. The released code averages over all pairs; the
    paper over p != q (``include_diagonal=False``). No kernel above ``block_rows``² is held.

    Raises:
        ValueError: the cluster is empty, or ``gamma`` is not positive.
    """
    if len(x) == 0:
        raise ValueError("got an empty cluster; expected at least one member")
    sums = kernel_row_sums(x, gamma, include_diagonal=False, block_rows=block_rows)
    return mean_kernel(sums, include_diagonal=include_diagonal)


def mean_kernel(sums: np.ndarray, *, include_diagonal: bool) -> float:
    """Density from ``sums`` float64 [n], n > 0: row sums of the kernel without its diagonal."""
    n = len(sums)
    if n == 1:
        return 1.0
    if include_diagonal:
        return float((sums.sum() + n) / (n * n))
    return float(sums.sum() / (n * (n - 1)))
