"""Matrix products in float64 of features stored in a smaller type.

torch converts fp16 fifty times faster than numpy, and its products respect torch's number of
threads. The memory comes from numpy, which uses huge pages: torch's allocator causes a page fault
every 4 KiB, which costs more than the conversion for blocks of some MiB.
"""

from __future__ import annotations

import numpy as np


def as_float64(x: np.ndarray) -> np.ndarray:
    """``x`` as float64; no copy if it is already."""
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
