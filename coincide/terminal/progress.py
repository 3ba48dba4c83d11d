"""A progress bar with ETA for a stage, on standard error; silent without a terminal."""

from __future__ import annotations

import sys
from typing import Any

from coincide.terminal.inert import inert, raw


def bar(stage: str, *, total: int, unit: str) -> Any:
    """A context manager whose ``update(n)`` advances the bar by ``n`` of ``total`` units."""
    from tqdm import tqdm

    return tqdm(
        total=total,
        unit=unit,
        desc=inert(stage),
        file=raw(sys.stderr),
        dynamic_ncols=True,
        mininterval=0.5,
        disable=None,
    )
