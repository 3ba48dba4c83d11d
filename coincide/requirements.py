"""What a run needs and cannot make itself: files, weights, keys, memory, a network.

The objects of the config groups (data, reference, clip, target, train, eval) say what they need in
``requirements()``. A run checks it before hours are spent, ``python -m coincide.doctor`` prints
it, and ``python -m coincide.prefetch`` fetches what has a ``fetch``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Requirement:
    """One thing that has to be there. Made by looking only: no download, no hashing, no import
    of torch.
    """

    name: str
    """What it is, e.g. ``images gqa`` or ``weights lmsys/vicuna-7b-v1.5``."""
    met: bool
    found: str
    """What was seen: a path and its size, a version, a reason."""
    remedy: str = ""
    """What to do where it is not met: a command or a setting."""
    bytes: int = 0
    """What has to be fetched for it, as far as known."""
    fetch: Callable[[], None] | None = None
    """Fetches it, resuming where a former try broke off; None where only the user can."""
    fatal: bool = True
    """False: the run goes on without it (a judge benchmark is left out), and says so."""


def requirements_of(part: Any) -> Sequence[Requirement]:
    """What ``part`` needs; nothing for parts that make all that they need."""
    ask = getattr(part, "requirements", None)
    return ask() if ask is not None else ()
