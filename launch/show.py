"""What the terminal shows of a run: the plan before it, tables after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from coincide.checks.estimate import StageEstimate
from coincide.experiment import Experiment
from coincide.ledger.result import Result
from coincide.pipeline import Planned
from coincide.report.tables import share
from coincide.selection.budget import count
from coincide.store import Store
from coincide.system.disk import size_text
from coincide.terminal.inert import console, inert


def title(experiment: Experiment) -> str:
    """Method, budget and data."""
    method = experiment.method
    if method.fixed_size:
        return f"{method.name}, its own size"
    return f"{method.name}, budget {experiment.budget} of {experiment.source.name}"


def number_of_rows(experiment: Experiment) -> str:
    """The number of examples to select; exact once the data is in the store."""
    data = experiment.store.find(experiment.data)
    if experiment.method.fixed_size or data is None:
        return title(experiment)
    rows = data.facts["rows"]
    k = count(experiment.budget, rows)
    return f"{experiment.method.name}, {k:,} of {rows:,} examples of {experiment.source.name}"


def show_plan(lines: Sequence[Planned], store: Store, size: str) -> None:
    """Print each step's stage and artifact, what will be done with it, and why it is not cached."""
    builds = sum(line.state == "build" for line in lines)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("stage", "artifact", "state", "why"):
        table.add_column(column, overflow="fold")
    style = {"build": "yellow", "cached": "green", "not needed": "dim"}
    for line in lines:
        state = Text(line.state, style[line.state])
        table.add_row(line.stage.name, inert(line.step.folder), state, inert(line.why))
    out = console()
    out.print(f"Plan: {inert(size)}; store {store.root}", style="bold", highlight=False)
    out.print(table)
    out.print("Everything is cached." if not builds else f"{builds} to build.", highlight=False)


def show_costs(costs: Sequence[StageEstimate]) -> None:
    """Print the estimates by stage, if any figure is known."""
    if not any(cost.hours is not None for cost in costs):
        return
    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
    for column, justify in (("estimate", "left"), ("GPU hours", "right"), ("disk", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    table.add_column("basis", overflow="fold")
    for cost in costs:
        hours = "?" if cost.hours is None else f"{cost.hours:,.1f}"
        hours = "< 0.1" if hours == "0.0" else hours
        disk = "" if cost.disk is None else size_text(cost.disk)
        table.add_row(cost.stage, hours, disk, cost.basis)
    console().print(table)


def show_subset(experiment: Experiment) -> None:
    """Print where the subset lies and how many rows of each source it has, of how many."""
    subset = experiment.store.artifact(experiment.subset)
    facts = subset.facts
    parts = (
        f"{source} {facts['composition'].get(source, 0):,} of {whole:,}"
        for source, whole in facts["pool_composition"].items()
    )
    out = console()
    out.print(f"{facts['k']:,} of {facts['rows']:,} rows chosen: {subset.path}", highlight=False)
    out.print(inert("; ".join(parts)), highlight=False, markup=False)


def show_result(result: Result, path: Path, remarks: Sequence[str] = ()) -> None:
    """Print one run's scores, ``remarks`` on them, its time by stage and the path of its result."""
    size = f"{result.k:,} examples ({result.budget:.1%})"
    title = f"{result.method} on {result.data}, {size}, seed {result.seed}"
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column, justify in (("benchmark", "left"), ("metric", "left"), ("score", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    table.add_column("stderr", justify="right")
    table.add_column("n", justify="right")
    table.add_column("read", justify="right")
    for score in result.scores:
        value = score.why or "missing" if score.value is None else f"{score.value:.3f}"
        error = "" if score.stderr is None else f"{score.stderr:.3f}"
        cells = (score.benchmark, score.metric, value, error, str(score.n), share(score.readable))
        table.add_row(*map(inert, cells))
        if score.lmms_eval is not None:
            theirs = ("", f"{score.metric}, lmms_eval", f"{score.lmms_eval:.3f}", "", "", "")
            table.add_row(*map(inert, theirs))
    out = console()
    out.print(f"\n{inert(title)}", style="bold", highlight=False)
    out.print(table)
    for remark in remarks:
        out.print(inert(remark), highlight=False)
    times = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in result.seconds.items())
    out.print(f"Time as first computed: {times}. Ledger: {path}", highlight=False)


def show_report(tables: Sequence[Table], paths: Mapping[str, Path]) -> None:
    """Print the tables that compare all results of the ledger, and the paths of the report."""
    out = console()
    for table in tables:
        out.print(table)
    out.print(f"Report: {paths['html']} (and {', '.join(sorted(set(paths) - {'html'}))})")
