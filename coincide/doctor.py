"""``python -m coincide.doctor data=llava ...``: what is there and what is missing, before hours.

The words are those of the run. Nothing is downloaded, hashed or built.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from coincide.machine import machine_requirements
from coincide.program import hand_over
from coincide.requirements import Requirement
from coincide.schema import UserError
from coincide.show import console, size_text

if TYPE_CHECKING:
    from coincide.experiment import Experiment

Asked = Iterable[tuple["Experiment", Sequence[str]]]
Found = list[tuple[str, Requirement]]
"""``(config group, requirement)``."""


def gather(asked: Asked) -> Found:
    """What all the experiments need, each thing once, in the order of the config groups."""
    found: dict[tuple[str, str], tuple[str, Requirement]] = {}
    for experiment, stages in asked:
        for group, requirement in experiment.requirements(stages):
            found.setdefault((group, requirement.name), (group, requirement))
    return list(found.values())


def refuse_unmet(asked: Asked) -> None:
    """Raise :class:`UserError` naming everything that is missing, before anything runs."""
    unmet = [(g, r) for g, r in gather(asked) if not r.met and r.fatal]
    if unmet:
        lines = (f"  {group}: {r.name}: {r.found}. {r.remedy}".rstrip() for group, r in unmet)
        raise UserError(
            "this is needed and not there:\n"
            + "\n".join(lines)
            + "\n`python -m coincide.doctor` with the same words shows all that is needed, "
            "`python -m coincide.prefetch` fetches what can be fetched. Nothing was run."
        )


def examine(asked: Asked) -> int:
    """Print a line for each thing needed; 0 when a run could start now, else 1."""
    asked = list(asked)
    found = [*(("machine", r) for r in machine_requirements(asked)), *gather(asked)]
    show(found)
    unmet = [r for _, r in found if not r.met and r.fatal]
    if not unmet:
        console().print("Ready: the same words with run.py start the run.", highlight=False)
        return 0
    size = sum(r.bytes for r in unmet)
    fetchable = sum(r.fetch is not None for r in unmet)
    console().print(
        f"{len(unmet)} missing; {fetchable} of them ({size_text(size)} as far as known) can be "
        "fetched: python -m coincide.prefetch with the same words.",
        highlight=False,
    )
    return 1


def show(found: Found) -> None:
    """One table: what, state, what was seen, what to do."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("for", "what", "state", "found", "remedy"):
        table.add_column(column, overflow="fold")
    for group, requirement in found:
        colour, state = _state(requirement)
        remedy = "" if requirement.met else requirement.remedy
        table.add_row(group, requirement.name, f"[{colour}]{state}[/]", requirement.found, remedy)
    console().print(table)


def _state(requirement: Requirement) -> tuple[str, str]:
    if requirement.met:
        return "green", "ok"
    return ("red", "missing") if requirement.fatal else ("yellow", "absent")


if __name__ == "__main__":
    sys.exit(hand_over("doctor", sys.argv[1:]))
