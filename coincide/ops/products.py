"""Matrix products in float64 of features that are stored in less.

torch converts fp16 fifty times faster than numpy and its products keep to torch's number of
threads; numpy's memory comes in huge pages, where torch's costs a page fault every 4 KiB, which for
blocks of some MiB is more than the conversion.
"""

from __future__ import annotations

import numpy as np


def wide(x: np.ndarray) -> np.ndarray:
    """``x`` in float64; itself where it is."""
    if x.dtype == np.float64:
        return np.asarray(x)
    import torch

    out = np.empty(x.shape)
    torch.from_numpy(out).copy_(torch.from_numpy(np.array(x)))
    return out


def products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``a @ b.T`` of float64 rows ``a`` [m, D] and ``b`` [n, D]: float64 [m, n]."""
    import torch

    out = np.empty((len(a), len(b)))
    torch.mm(torch.from_numpy(a), torch.from_numpy(b).T, out=torch.from_numpy(out))
    return out
