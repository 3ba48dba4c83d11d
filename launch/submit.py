"""What launchers of several jobs do before the first one starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from coincide.checks.needs import check_resume
from coincide.ledger.files import file_name, read_result
from coincide.ledger.result import Result
from coincide.stages import result_of
from coincide.terminal.inert import console
from launch.again import reopen_unanswered
from launch.jobs import Job, record
from launch.plan import Node, Together, goal_key, plan_nodes
from launch.sweep import Sweep, Task, freeze_code, freeze_sweep, tasks_of


def plan_sweep(jobs: Sequence[Job], together: Together, in_flight: Mapping[str, str]) -> list[Node]:
    """Plan the graph and print it; runs whose artifacts all exist get their result written now."""
    for job in jobs:
        if goal_key(job) not in in_flight:
            reopen_unanswered(job)
    nodes = plan_nodes(jobs, together=together, in_flight=in_flight)
    _check_resume(nodes, jobs)
    show_nodes(nodes, len(jobs))
    if not jobs[0].cfg.dry_run:
        _examine(nodes, jobs)
        for job in jobs:
            record_cached(job)
    return nodes


def _examine(nodes: Sequence[Node], jobs: Sequence[Job]) -> None:
    """Try documents of the benchmarks of runs that are to be trained, if the data exist already.

    Benchmarks of a data artifact that is yet to be built are tried by the job that trains.
    """
    trained = {step.planned for node in nodes for step in node.steps if step.kind == "adapter"}
    asked = [
        job.experiment
        for job in jobs
        if "evaluate" in job.stages and trained and job.experiment.adapter.planned in trained
    ]
    if asked:
        steps = [step for experiment in asked for step in experiment.scores]
        asked[0].evaluation.examine(asked[0].store, steps)


def _check_resume(nodes: Sequence[Node], jobs: Sequence[Job]) -> None:
    """Raise UserError if a queued training could not resume from a checkpoint of another layout.

    With ``processes: auto`` the layout is only known where the job runs.
    """
    trained = {step.planned for node in nodes for step in node.steps if step.kind == "adapter"}
    for job in jobs:
        known = job.experiment.recipe.processes != "auto"
        if trained and known and job.experiment.adapter.planned in trained:
            check_resume(job.experiment)


def freeze_all(
    nodes: Sequence[Node], jobs: Sequence[Job], failures: int
) -> tuple[Sweep, list[Task]]:
    """The frozen sweep, and the tasks of ``nodes``, which run from the frozen code."""
    sweep = freeze_sweep(jobs, Path.cwd())
    return sweep, tasks_of(nodes, jobs, sweep, freeze_code(sweep), failures)


def record_cached(job: Job) -> None:
    """Write the result of a run whose scores are all in the store, unless the ledger has it with
    these scores already.
    """
    if "evaluate" not in job.stages:
        return
    if all(job.experiment.store.find(step) for step in job.experiment.scores):
        result = result_of(job.experiment)
        path = Path(job.cfg.paths.ledger) / file_name(result)
        if not path.is_file() or _lacks(read_result(path), result):
            record(job)


def _lacks(old: Result, new: Result) -> bool:
    """Whether a benchmark that failed when ``old`` was recorded is measured by now."""
    missing = {(s.benchmark, s.metric) for s in old.scores if s.value is None}
    return any((s.benchmark, s.metric) in missing for s in new.scores if s.value is not None)


def show_nodes(nodes: Sequence[Node], runs: int) -> None:
    """Print a line for each job: what it builds and what it waits for."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("stage", "job", "builds", "waits for"):
        table.add_column(column, overflow="fold")
    for node in nodes:
        waits = [*node.after, *(f"job {number}" for number in node.after_jobs)]
        builds = f"{len(node.steps)} artifact{'s' if len(node.steps) != 1 else ''}"
        shown = ", ".join(waits[:3]) + (f" and {len(waits) - 3} more" if len(waits) > 3 else "")
        table.add_row(node.stage, node.name, builds, shown)
    out = console()
    out.print(f"Plan of {runs} runs: {len(nodes)} jobs", style="bold", highlight=False)
    if nodes:
        out.print(table)
