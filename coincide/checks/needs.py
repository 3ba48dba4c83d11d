"""What runs need and what of it is missing, told before hours are spent.

Nothing is downloaded, hashed or built.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from coincide.checks.machine import machine_requirements
from coincide.fit import check_rows
from coincide.protocols import HasDataChecks, Requirement, requirements_of, scale_of
from coincide.schema import UserError
from coincide.system.disk import size_text
from coincide.terminal.inert import console, inert

if TYPE_CHECKING:
    from coincide.experiment import Experiment

ExperimentStages = Iterable[tuple["Experiment", Sequence[str]]]
GroupRequirements = list[tuple[str, Requirement]]
"""``(config group, requirement)``."""


def gather(asked: ExperimentStages) -> GroupRequirements:
    """What all the experiments need, each requirement once, in the order of the config groups."""
    found: dict[tuple[str, str], tuple[str, Requirement]] = {}
    for experiment, stages in asked:
        for group, part in experiment.parts(stages).items():
            if group in (*experiment.models, "target") and experiment.in_store(part):
                continue
            for requirement in _requirements(experiment, group, part, stages):
                found.setdefault((group, requirement.name), (group, requirement))
        for requirement in _processor(experiment, stages):
            found.setdefault(("target", requirement.name), ("target", requirement))
        for requirement in _unfit(experiment, stages):
            found.setdefault(("method", requirement.found), ("method", requirement))
    return list(found.values())


def _processor(experiment: Experiment, stages: Sequence[str]) -> Sequence[Requirement]:
    """Of a target that trains nothing the processor alone, which a selection can do without."""
    if "select" not in stages or "target" in experiment.parts(stages):
        return ()
    files = experiment.target.processor()
    return files.requirements if files.there or not experiment.in_store(experiment.target) else ()


def _unfit(experiment: Experiment, stages: Sequence[str]) -> Sequence[Requirement]:
    """What a setting of the method names and the data, if they are in the store, do not have."""
    if not {"features", "select", "train", "evaluate"} & set(stages):
        return ()
    if not any(isinstance(m, HasDataChecks) and m.names_data for m in experiment.methods):
        return ()
    try:
        experiment.store.find(experiment.data)
    except UserError:  # told as a requirement of the data
        return ()
    try:
        check_rows(experiment, experiment.store)
    except UserError as error:
        name = f"what {experiment.method.name} names of the data"
        return (Requirement(name, met=False, found=str(error), remedy="Correct the setting."),)
    return ()


def _requirements(
    experiment: Experiment, group: str, part: Any, stages: Sequence[str]
) -> Sequence[Requirement]:
    if group == "target" and experiment.finetunes(stages):
        return [*requirements_of(part), *experiment.finetuning.trainable(part)]
    if group == "train":
        size = scale_of(experiment.target).get("parameters")
        folder = experiment.store.root
        return experiment.finetuning.requirements(part, parameters=size, folder=folder)
    return requirements_of(part)


def check_resume(experiment: Experiment) -> None:
    """Refuse to resume a finetuning from a checkpoint that this layout cannot read."""
    found = experiment.finetuning.resumable(experiment.store, experiment.adapter, experiment.recipe)
    if found is not None and not found.met:
        raise UserError(f"{found.name}: {found.found}. {found.remedy}")


def unmet_requirements(asked: ExperimentStages) -> GroupRequirements:
    """The requirements that are not met and without which the runs cannot start."""
    return [(group, r) for group, r in gather(asked) if not r.met and r.fatal]


def refuse_unmet(asked: ExperimentStages) -> None:
    """Raise :class:`UserError` naming everything that is missing, before anything runs."""
    missing = unmet_requirements(asked)
    if missing:
        lines = [f"  {group}: {r.name}: {r.found}" for group, r in missing]
        remedies = _remedies(missing)
        todo = [f"  {', '.join(names)}:\n    {remedy}" for remedy, names in remedies.items()]
        raise UserError(
            "\n".join(["this is needed and not there:", *lines, "What to do:", *todo])
            + "\n`python -m coincide.doctor` with the same words looks at all that is needed, "
            "`python -m coincide.prefetch` fetches what can be fetched. Nothing was run."
        )


def examine(asked: ExperimentStages) -> int:
    """Print a line for each requirement; 0 when the runs could start now, else 1."""
    asked = list(asked)
    found = [*(("machine", r) for r in machine_requirements(asked)), *gather(asked)]
    show(found)
    missing = [r for _, r in found if not r.met and r.fatal]
    if not missing:
        console().print("Ready: the same words with run.py start the run.", highlight=False)
        return 0
    size = sum(r.bytes for r in missing)
    fetchable = sum(r.fetch is not None for r in missing)
    console().print(
        f"\n{len(missing)} missing; {fetchable} of them ({size_text(size)} as far as known) can be "
        "fetched: python -m coincide.prefetch with the same words.",
        highlight=False,
    )
    return 1


def show(found: GroupRequirements) -> None:
    """Print a table of the requirements (name, state, what was found) and each remedy once."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("for", "what", "state", "found"):
        table.add_column(column, overflow="fold")
    for group, requirement in found:
        colour, state = _state(requirement)
        name, seen = inert(requirement.name), inert(requirement.found)
        table.add_row(group, name, Text(state, colour), seen)
    out = console()
    out.print(table)
    remedies = _remedies(found)
    if remedies:
        out.print("\nWhat to do", style="bold")
    for remedy, names in remedies.items():
        out.print(f"  {', '.join(names)}:\n    {remedy}", highlight=False, markup=False)


def _remedies(found: GroupRequirements) -> dict[str, list[str]]:
    """Remedy -> names of the requirements that it meets."""
    remedies: dict[str, list[str]] = {}
    for _, requirement in found:
        if not requirement.met and requirement.remedy:
            remedies.setdefault(requirement.remedy, []).append(requirement.name)
    return remedies


def _state(requirement: Requirement) -> tuple[str, str]:
    if requirement.met:
        return "green", "ok"
    return ("red", "missing") if requirement.fatal else ("yellow", "absent")
