"""What a run needs and cannot make itself: files, weights, keys, memory, a network.

The objects of the config groups (data, reference, clip, target, train, eval) list it in
``requirements()``. A run checks it before it starts, ``python -m coincide.doctor`` prints it, and
``python -m coincide.prefetch`` fetches what has a ``fetch``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Requirement:
    """One thing that must be there.

    Checked by looking only: no download, no hashing, no import of torch.
    """

    name: str
    """What it is, e.g. ``images gqa`` or ``weights lmsys/vicuna-7b-v1.5``."""
    met: bool
    found: str
    """What was found: a path and its size, a version, a reason."""
    remedy: str = ""
    """What to do if it is not met: a command or a setting."""
    bytes: int = 0
    """Size of what has to be fetched, as far as known."""
    fetch: Callable[[], None] | None = None
    """Fetches it, resuming an interrupted download; None if only the user can provide it."""
    fatal: bool = True
    """False: the run goes on without it, e.g. leaves out a benchmark that needs a judge, and says
    so."""


def requirements_of(part: Any) -> Sequence[Requirement]:
    """The requirements of ``part``; empty for parts that have no ``requirements``."""
    ask = getattr(part, "requirements", None)
    return ask() if ask is not None else ()
