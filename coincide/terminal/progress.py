"""A progress bar with ETA for a stage, on standard error; silent without a terminal."""

from __future__ import annotations

import sys
from typing import Any

from coincide.terminal.inert import inert, raw

SOON = 1.0
"""Seconds of work that ends before a bar is worth showing: of what may be short or long."""
_quiet = False


def bar(stage: str, *, total: int, unit: str, delay: float = 0.0) -> Any:
    """A context manager whose ``update(n)`` advances by n units; shown after ``delay`` seconds.

    ``total`` 0: not known yet; it may be set later. ``unit`` ``B`` is shown as kB, MB, ...
    """
    from tqdm import tqdm

    return tqdm(
        total=total or None,
        unit=unit,
        unit_scale=unit == "B",
        desc=inert(stage),
        file=raw(sys.stderr),
        dynamic_ncols=True,
        mininterval=0.5,
        delay=delay,
        disable=_quiet or None,
    )


def silence() -> None:
    """Show no bars from now on: those of a worker would be drawn over its parent's."""
    global _quiet
    _quiet = True
