"""Fetch all downloads that runs need, on a machine with a network.

Weights, training data and evaluation data, so that compute nodes need no network. What is there is
not fetched again; an interrupted download is resumed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from coincide.checks.needs import gather, show
from coincide.protocols import Requirement
from coincide.schema import UserError
from coincide.system.disk import size_text
from coincide.terminal.inert import console

if TYPE_CHECKING:
    from coincide.experiment import Experiment


def fetch_all(asked: Iterable[tuple[Experiment, Sequence[str]]]) -> int:
    """Fetch what is missing, one requirement after the other; 0 if nothing is missing afterwards.

    A failure does not stop the others; it is named at the end with its reason.
    """
    asked = list(asked)
    wanted = [(group, r) for group, r in gather(asked) if not r.met and r.fetch is not None]
    total = sum(r.bytes for _, r in wanted)
    out = console()
    out.print(f"{len(wanted)} to fetch, {size_text(total)} as far as known.", highlight=False)
    failures = {}
    for number, (group, requirement) in enumerate(wanted, 1):
        out.print(f"[{number}/{len(wanted)}] {group}: {requirement.name}", highlight=False)
        if reason := _fetch(requirement):
            failures[group, requirement.name] = reason
    left = [(group, r) for group, r in gather(asked) if not r.met]
    if left:
        show(left)
    for (group, name), reason in failures.items():
        out.print(f"{group}: {name}: {reason}", style="red", highlight=False, markup=False)
    if any(r.fatal for _, r in left):
        return 1
    out.print("Everything is here; the runs need no network.", highlight=False)
    return 0


def _fetch(requirement: Requirement) -> str:
    """Why the requirement could not be fetched; empty on success."""
    assert requirement.fetch is not None
    try:
        requirement.fetch()
    except (UserError, OSError) as error:
        return str(error)
    return ""
