"""What all methods select, printed as JSON, by the instruction set that the environment allows.

    python -m tests.instructions

Every row of the pool is there twice and scores have one digit, so ties abound.
"""

from __future__ import annotations

import json
import os

import numpy as np

from tests.baselines.pool import MemoryPool, make_pool
from tests.baselines.test_every_method import METHODS

PARTS = {"numpy": "NPY_DISABLE_CPU_FEATURES", "torch": "ATEN_CPU_CAPABILITY",
         "oneDNN": "ONEDNN_MAX_CPU_ISA", "MKL": "MKL_ENABLE_INSTRUCTIONS",
         "OpenBLAS": "OPENBLAS_CORETYPE"}  # fmt: skip
"""Library -> the variable that holds it to an instruction set."""
SETS = {
    "widest": {},
    "AVX2": {"numpy": "512", "torch": "avx2", "oneDNN": "AVX2", "MKL": "AVX2",
             "OpenBLAS": "Haswell"},
    "SSE": {"numpy": "", "torch": "default", "oneDNN": "SSE41", "MKL": "SSE4_2",
            "OpenBLAS": "Nehalem"},
}  # fmt: skip
"""Name -> library -> its word for the set; numpy's is a part of the names that are switched off."""


def variables(name: str) -> dict[str, str]:
    """The environment under which a process has the set ``name`` and no wider one."""
    from numpy._core import _multiarray_umath as built

    found: dict[str, str] = {PARTS[library]: word for library, word in SETS[name].items()}
    if PARTS["numpy"] in found:
        part = found[PARTS["numpy"]]
        wider = [f for f in built.__cpu_dispatch__ if built.__cpu_features__[f]]
        off = [f for f in wider if not part or part in f or f == "X86_V4"]
        found[PARTS["numpy"]] = " ".join(off)
    if name == "SSE":
        found["MKL_CBWR"] = "COMPATIBLE"
    return found


def tied(rows: int = 150) -> MemoryPool:
    """A pool whose second half repeats the first, with scores of one digit."""
    pool = make_pool(rows)
    twice = np.tile(np.arange(rows), 2)
    found = pool.permuted(twice)
    found.subsets = {k: np.concatenate([v, v + rows]) for k, v in pool.subsets.items()}
    found.tuned_signals = {k: np.round(v[twice], 1) for k, v in pool.tuned_signals.items()}
    found.signals = {
        signal: np.round(values, 1) if values.shape[1] <= 4 else values
        for signal, values in found.signals.items()
    }
    found.difficulties = {k: np.round(v, 1) for k, v in found.difficulties.items()}
    return found


def selections() -> dict[str, list[int]]:
    """Method and number of rows -> the rows, in their order."""
    pools = {"tied": tied(), "not tied": make_pool()}
    return {
        f"{method!r} {name} {k}": method.select(pool, k, 0).rows.tolist()
        for method in METHODS
        for name, pool in pools.items()
        for k in (50, 120)
    }


if __name__ == "__main__":
    import torch

    said = {
        "torch": torch.backends.cpu.get_cpu_capability(),
        "numpy": os.environ.get(PARTS["numpy"]),
    }
    print(json.dumps({"said": said, "rows": selections()}))
