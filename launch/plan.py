"""Turn runs into a graph of nodes: every missing artifact is built by one node, shared ones first.

A node is the work of one queued job, or one process. It starts after the nodes that build what its
steps need, so that no job waits for another while it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from coincide.pipeline import Planned, plan
from coincide.schema import STAGES
from coincide.stages import stages_of
from coincide.store import Step
from coincide.system.files import as_name, digest_of
from launch.jobs import Job, goal

ORDER = ("prepare", *STAGES)
KEY_DIGITS = 12
"""Digits of a step's key, as in its folder name."""


@dataclass(frozen=True)
class Node:
    """Steps that are built together, and what must be done before."""

    name: str
    stage: str
    kind: str
    """Kind of the first step, e.g. ``features``, ``subset``, ``adapter``."""
    steps: tuple[Step, ...] = ()
    runs: tuple[int, ...] = ()
    """Numbers of runs that the steps belong to, as few as cover all steps."""
    records: tuple[int, ...] = ()
    """Numbers of runs whose result can be written once this node is done."""
    after: tuple[str, ...] = ()
    """Names of the nodes that must be done before."""
    after_jobs: tuple[str, ...] = ()
    """Ids of jobs submitted earlier that build something this node needs."""
    processes: int | str = 1
    """Processes per machine; ``auto``: one per GPU."""
    machines: int = 1


@dataclass
class _Group:
    """A node while the graph is made."""

    name: str
    stage: str
    kind: str
    steps: dict[str, Step] = field(default_factory=dict)
    runs: dict[int, None] = field(default_factory=dict)
    records: list[int] = field(default_factory=list)
    waits: dict[str, None] = field(default_factory=dict)
    """Keys of what must exist before."""
    processes: int | str = 1
    machines: int = 1


Together = Callable[[Job], bool]
"""Whether a run's evaluation is done in the same queued job as its training."""


def plan_nodes(
    jobs: Sequence[Job],
    *,
    together: Together = lambda job: True,
    in_flight: Mapping[str, str] | None = None,
) -> list[Node]:
    """The nodes that ``jobs`` (without duplicates) need, each after those it waits for.

    ``in_flight``: key of a step, or goal of a run -> id of the queued or running job that produces
    it. Raises UserError like :func:`coincide.pipeline.plan`.
    """
    in_flight = in_flight or {}
    groups: dict[str, _Group] = {}
    home: dict[str, str] = {}
    for number, job in enumerate(jobs):
        for line in _to_build(job):
            if in_flight.keys().isdisjoint(line.step.names):
                _place(line, number, job, groups, home, together)
        _place_record(number, job, groups, home, in_flight)
    ordered = sorted(groups.items(), key=lambda item: ORDER.index(item[1].stage))
    return [_node(ident, group, groups, home, in_flight) for ident, group in ordered]


def _to_build(job: Job) -> Iterator[Planned]:
    experiment = job.experiment
    lines = plan(stages_of(experiment, job.stages), experiment.store, job.stages, explain=False)
    return (line for line in lines if line.state == "build")


def _place(
    line: Planned,
    number: int,
    job: Job,
    groups: dict[str, _Group],
    home: dict[str, str],
    together: Together,
) -> None:
    """Put the step into its group, unless an earlier run did."""
    step = line.step
    if step.planned in home:
        return
    ident = _ident(line, home, together(job))
    if ident not in groups:
        name = _name(line, ident, job.experiment.seed)
        group = _Group(name, line.stage.name, step.kind)
        group.processes, group.machines = _width(line, job)
        groups[ident] = group
    group = groups[ident]
    home[step.planned] = ident
    group.steps[step.planned] = step
    group.runs[number] = None
    group.waits |= dict.fromkeys(name for need in (*step.needs, *step.after) for name in need.names)


def _width(line: Planned, job: Job) -> tuple[int | str, int]:
    """Processes on each machine, and machines, that build the step."""
    experiment = job.experiment
    match line.step.kind:
        case "features":
            return experiment.features.processes, 1
        case "adapter" | "warmup":
            return experiment.recipe.processes, experiment.recipe.nodes
        case "eval":
            return experiment.suite.processes, 1
    return 1, 1


def _ident(line: Planned, home: Mapping[str, str], together: bool) -> str:
    """The group of a step.

    Signals of one pass share a group, and so do all benchmarks of one adapter; a scan goes to the
    group that makes its model.
    """
    step = line.step
    if step.kind == "scan":  # beside the model that it is made with
        return home.get(step.needs[-1].planned, step.planned)
    if step.kind == "features":
        of_the_pass = {k: v for k, v in step.config.items() if k not in ("signal", "params")}
        return digest_of(["features", of_the_pass, *(need.planned for need in step.needs)])
    adapter = _adapter_below(step) if line.stage.name == "evaluate" else None
    if adapter is None:
        return step.planned
    if together and adapter.planned in home:
        return home[adapter.planned]
    return digest_of(["evaluate", adapter.planned])


def _adapter_below(step: Step) -> Step | None:
    for need in step.needs:
        if found := need if need.kind == "adapter" else _adapter_below(need):
            return found
    return None


def _name(line: Planned, ident: str, seed: int) -> str:
    step = line.step
    adapter = _adapter_below(step) if line.stage.name == "evaluate" else None
    if step.kind == "features":  # as wide as the pass, not as its first signal
        what = "-".join(need.name for need in reversed(step.needs))
    else:
        what = (adapter or step).name
    if (step.kind == "adapter" or adapter) and not what.endswith(f"-s{seed}"):
        what += f"-s{seed}"  # of the training, when it is not of the subset already
    return f"{step.kind}-{as_name(what, 60)}-{ident[:8]}"


def _place_record(
    number: int,
    job: Job,
    groups: dict[str, _Group],
    home: Mapping[str, str],
    in_flight: Mapping[str, str],
) -> None:
    """Find the node after which the run's result can be written.

    A node of its own if others build all of it.
    """
    if "evaluate" not in job.stages or goal_key(job) in in_flight:
        return
    scores = job.experiment.scores
    built = [home[step.planned] for step in scores if step.planned in home]
    if not built and any(name in in_flight for step in scores for name in step.names):
        ident = digest_of(["record", goal_key(job)])
        name = f"record-{as_name(job.experiment.adapter.name, 60)}-{ident[:8]}"
        groups[ident] = _Group(name, "evaluate", "record")
        built = [ident]
    if built:
        last = groups[built[-1]]
        last.records.append(number)
        last.runs[number] = None
        last.waits |= dict.fromkeys(name for step in scores for name in step.names)


def goal_key(job: Job) -> str:
    """One key for everything that a run ends with."""
    return digest_of(["goal", *goal(job)])


def _node(
    ident: str,
    group: _Group,
    groups: Mapping[str, _Group],
    home: Mapping[str, str],
    in_flight: Mapping[str, str],
) -> Node:
    after = dict.fromkeys(home[key] for key in group.waits if home.get(key, ident) != ident)
    return Node(
        group.name,
        group.stage,
        group.kind,
        tuple(group.steps.values()),
        tuple(group.runs),
        tuple(group.records),
        tuple(groups[other].name for other in after),
        tuple(dict.fromkeys(in_flight[key] for key in group.waits if key in in_flight)),
        group.processes,
        group.machines,
    )
