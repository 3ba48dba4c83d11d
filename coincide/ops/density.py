"""Density of a cluster: how alike its members are (COINCIDE, section 3.2)."""

from __future__ import annotations

import numpy as np

from coincide.ops.mmd import BLOCK_ROWS, kernel_row_sums


def cluster_density(
    x: np.ndarray, gamma: float, *, include_diagonal: bool = True, block_rows: int = BLOCK_ROWS
) -> float:
    """Mean Gaussian kernel over the pairs of members ``x`` [n, D]; in (0, 1], 1 for a singleton.

    ``D = mean_{p,q} exp(-|x_p - x_q|² / 2γ²)``. The released code averages over all pairs; the
    paper over p != q (``include_diagonal=False``). No kernel above ``block_rows``² is held.

    Raises:
        ValueError: the cluster is empty, or ``gamma`` is not positive.
    """
    n = len(x)
    if n == 0:
        raise ValueError("got an empty cluster; expected at least one member")
    if n == 1:
        return 1.0
    pairs = n * n if include_diagonal else n * (n - 1)
    sums = kernel_row_sums(x, gamma, include_diagonal=include_diagonal, block_rows=block_rows)
    return float(sums.sum() / pairs)
