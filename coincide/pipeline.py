"""Plan and execution: which steps of the stages exist, which are needed, and build the missing
ones.

A step is built only if a requested stage ends in it or a missing step needs it. So deleting 27 GB
of features costs nothing as long as the subset is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from coincide.schema import UserError
from coincide.store import Artifact, Step, Store
from coincide.system.disk import DiskError

StepState = Literal["cached", "build", "not needed"]


@dataclass(frozen=True)
class Stage:
    """A named group of steps that are asked for together.

    ``run``, if given, builds a list of steps whose needs exist; else they are built one by one.
    """

    name: str
    steps: tuple[Step, ...]
    run: Callable[[Store, Sequence[Step]], object] | None = None
    """None: each step by itself."""

    def build(self, store: Store, steps: Sequence[Step]) -> None:
        """Build ``steps``. Raises DiskError, naming stage and artifact, if the disk is full or
        read-only.
        """
        try:
            if self.run is not None:
                self.run(store, steps)
                return
            for step in steps:
                store.ensure(step)
        except Exception as error:
            told = store.as_disk_error(error, steps)
            if isinstance(told, DiskError):
                raise DiskError(f"{self.name}: {told}") from error
            raise


@dataclass(frozen=True)
class Planned:
    """One line of the plan: a step, what will be done with it, and why."""

    stage: Stage
    step: Step
    state: StepState
    why: str = ""


def plan(
    stages: Sequence[Stage], store: Store, goals: Iterable[str], *, explain: bool = True
) -> list[Planned]:
    """What will be done with each step of ``stages`` (in order), for the stages named in ``goals``.

    ``explain=False`` omits why a step is missing, which needs every manifest of its kind. Raises
    :class:`UserError` when a missing step is needed whose stage is not among the goals; ``prepare``
    (data and models) is always included.
    """
    wanted = set(goals)
    needed = _needed(stages, store, wanted)
    lines = []
    for stage in stages:
        for step in stage.steps:
            if not pending_scans(store, step) and store.find(step) is not None:
                lines.append(Planned(stage, step, "cached"))
            elif step.key not in needed:
                lines.append(Planned(stage, step, "not needed"))
            elif stage.name in wanted or stage.name == "prepare":
                why = _why(store, step) if explain else ""
                lines.append(Planned(stage, step, "build", why))
            else:
                raise UserError(
                    f"{step.folder} is needed but not in the store, and its stage "
                    f"{stage.name!r} is not asked for. Add it: 'stages="
                    f"[{','.join([stage.name, *sorted(wanted)])}]'."
                )
    return lines


def pending_scans(store: Store, step: Step) -> list[Step]:
    """Unbuilt scans whose result can change the key of ``step``.

    Until they are built, an artifact with the present key need not be the one that is needed.
    """
    below = (other for need in step.needs for other in pending_scans(store, need))
    return [*(other for other in step.after if store.find(other) is None), *below]


def _why(store: Store, step: Step) -> str:
    if (waits := pending_scans(store, step)) and store.find(step) is not None:
        return f"cached, unless {waits[0].folder} finds otherwise"
    return store.explain(step)


def _needed(stages: Sequence[Stage], store: Store, wanted: set[str]) -> set[str]:
    """Keys of the missing steps that the last requested stage or another missing step needs."""
    last = next((s for s in reversed(stages) if s.name in wanted and s.steps), None)
    frontier = list(last.steps) if last else []
    needed: set[str] = set()
    while frontier:
        step = frontier.pop()
        if step.key in needed:
            continue
        if store.find(step) is None:
            needed.add(step.key)
            frontier.extend((*step.needs, *step.after))
        elif waits := pending_scans(store, step):  # likely to be what is there
            needed.add(step.key)
            frontier.extend(waits)
    return needed


def execute(lines: Sequence[Planned], store: Store) -> list[Artifact]:
    """Build what the plan says, stage by stage; return the artifacts that exist then, in order."""
    done: set[int] = set()
    for line in lines:
        if id(line.stage) in done:
            continue
        done.add(id(line.stage))
        todo = [
            other.step for other in lines if other.stage is line.stage and other.state == "build"
        ]
        if todo:
            line.stage.build(store, todo)
    found = [(store.find(line.step), line.step) for line in lines]
    for artifact, step in found:
        if artifact is not None:
            store.tidy(artifact, step)
    return [artifact for artifact, _ in found if artifact is not None]
