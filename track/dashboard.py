"""The comparing dashboard: a wandb report with a section for each panel of our own report.

Made with wandb-workspaces, the client for wandb's reports; its charts use the names that
``track.records`` gives to configuration, summary and tables.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from coincide.ledger.files import read_ledger
from coincide.ledger.result import Result
from coincide.report.compare import panels
from coincide.schema import UserError
from coincide.system.files import write_json
from track.process import answer, failure, one_line, order_and_answers, reason_of, running
from track.settings import Logger
from track.sync import marks

TITLE = "Data selection: comparison"
SECTIONS = 12
"""Most panels shown, and most benchmarks with a chart of their own in each."""
ABSENT = (
    "the dashboard is made with wandb-workspaces, which is not installed: "
    "pip install 'wandb-workspaces>=0.4,<0.4.8'"
)


def create(logger: Logger, ledger: Path) -> str:
    """Save the report at wandb; with ``logger=wandb_offline`` write its specification to a file.

    The second time the same report is updated. Returns a line that says where it is.
    Raises UserError if wandb does not take it.
    """
    mark = marks(logger) / "dashboard.json"
    mark.parent.mkdir(parents=True, exist_ok=True)
    if logger.mode == "offline":
        write_json(mark, specification(report(logger, read_ledger(ledger), entity="entity")))
        return f"The specification of the dashboard: {mark}. With logger=wandb it is made there."
    _clients()
    order = {"logger": asdict(logger), "ledger": str(ledger.absolute()), "id": _known(mark)}
    with running("track.dashboard", order, logger, logger.timeout) as child:
        said = answer(child, logger.timeout)
        if said is None or "failed" in said:
            reason = one_line(said["failed"]) if said else reason_of(child, logger)
            raise UserError(
                f"the dashboard was not made: {reason}. See `wandb login --verify`; if the report "
                f"was deleted at wandb, remove {mark}."
            )
    write_json(mark, said)
    return f"The dashboard: {said['url']}"


def main() -> None:
    """Entry point of a separate process: create the report, or update the one with ``id``."""
    order, answers = order_and_answers()
    logger = Logger(**order["logger"])
    try:
        entity = logger.entity or _own_entity()
        made = report(logger, read_ledger(Path(order["ledger"])), entity=entity)
        made.id = order["id"]
        made.save()
        said = {"id": made.id, "url": made.url}
    except Exception as error:  # wandb raises what its transport raises
        said = failure(error)
    print(json.dumps(said), file=answers, flush=True)


def report(logger: Logger, results: Sequence[Result], *, entity: str) -> Any:
    """The report as an object of wandb-workspaces; nothing is sent.

    Raises if that is not installed.
    """
    wr, _ = _clients()
    blocks: list[Any] = [
        wr.P(
            "Rel. (%) is the mean over benchmarks of 100 x score / score of our own full-data "
            "runs. Bars are means over seeds, whiskers standard errors; the table of the local "
            "report has the 95 % t intervals. Made by `python -m coincide.dashboard create`."
        )
    ]
    for panel in panels(results)[:SECTIONS]:
        where = {"data_name": panel.data, "target_name": panel.target}
        where |= {f"{part}_id": key for part, key in panel.contents.items() if panel.apart}
        names = [column.name for column in panel.columns][:SECTIONS]
        with_gpu = any(row.charge.total(shared=False, gpu=True) for row in panel.rows)
        blocks += [wr.H1(panel.title), *_section(where, names, gpu=with_gpu)]
    if not results:
        blocks += _section({}, [], gpu=False)
    return wr.Report(
        project=logger.project, entity=entity, title=TITLE, width="fluid", blocks=blocks
    )


def specification(made: Any) -> dict[str, Any]:
    """The report's ``spec`` as sent to wandb."""
    spec: dict[str, Any] = json.loads(
        made._to_model().spec.model_dump_json(by_alias=True, exclude_none=True)
    )
    return spec


def _section(where: dict[str, str], benchmarks: Sequence[str], *, gpu: bool) -> list[Any]:
    wr, expr = _clients()

    def grid(job_type: str, names: Sequence[str], charts: Sequence[Any]) -> Any:
        filters = [expr.Metric("JobType") == job_type]
        filters += [expr.Config(name) == where[name] for name in names if name in where]
        runs = wr.Runset(name=job_type, filters=filters)  # of the report's own project
        return wr.PanelGrid(runsets=[runs], panels=_laid_out(charts))

    both = ("data_name", "target_name", "data_id", "target_id")
    data = ("data_name", "data_id")
    return [
        grid("evaluate", both, _comparison(gpu=gpu)),
        wr.H2("Benchmarks"),
        grid("evaluate", both, _benchmarks(benchmarks)),
        wr.H2("Training"),
        grid("train", both, _curves()),
        wr.H2("Selection"),
        grid("select", data, _selection()),
    ]


def _comparison(*, gpu: bool) -> list[Any]:
    wr, _ = _clients()
    cost, unit = ("cost/gpu_hours", "GPU hours") if gpu else ("cost/seconds", "seconds")
    return [
        _bars("Rel. (%) by method and budget", "rel"),
        wr.ScatterPlot(
            title="Rel. (%) against budget",
            x=wr.SummaryMetric("budget"), y=wr.SummaryMetric("rel"), legend_template=_LEGEND,
        ),
        wr.ScatterPlot(
            title=f"Rel. (%) against cost ({unit}, evaluation aside)",
            x=wr.SummaryMetric(cost), y=wr.SummaryMetric("rel"), legend_template=_LEGEND,
        ),
    ]  # fmt: skip


def _benchmarks(names: Sequence[str]) -> list[Any]:
    wr, _ = _clients()
    return [
        wr.WeavePanelSummaryTable(table_name="benchmarks", layout=wr.Layout(w=24, h=12)),
        *(_bars(f"{name}: % of full data", f"rel/{name}") for name in names),
    ]


def _curves() -> list[Any]:
    wr, _ = _clients()
    return [
        wr.LinePlot(
            title=title, x="Step", y=[metric], groupby=wr.Config("row"), groupby_aggfunc="mean",
            groupby_rangefunc="minmax", max_runs_to_show=100,
        )
        for title, metric in (("Training loss", "train/loss"), ("Gradient norm", "train/grad_norm"))
    ]  # fmt: skip


def _selection() -> list[Any]:
    wr, _ = _clients()
    wide = {"w": 24, "h": 12}
    return [
        wr.WeavePanelSummaryTable(table_name="composition", layout=wr.Layout(**wide)),
        wr.WeavePanelSummaryTable(table_name="clusters", layout=wr.Layout(**wide)),
    ]


_LEGEND = "${config:row}, seed ${config:seed}"


def _bars(title: str, metric: str) -> Any:
    wr, _ = _clients()
    return wr.BarPlot(
        title=title, metrics=[metric], groupby=wr.Config("row"),
        groupby_aggfunc="mean", groupby_rangefunc="stderr", max_runs_to_show=200,
        max_bars_to_show=50,
    )  # fmt: skip


def _laid_out(charts: Sequence[Any]) -> list[Any]:
    """Arrange charts from left to right and top to bottom on a grid of 24 columns."""
    x = y = height = 0
    for chart in charts:
        if x + chart.layout.w > 24:
            x, y, height = 0, y + height, 0
        chart.layout.x, chart.layout.y = x, y
        x, height = x + chart.layout.w, max(height, chart.layout.h)
    return list(charts)


def _clients() -> tuple[Any, Any]:
    try:
        import wandb_workspaces.expr as expr
        import wandb_workspaces.reports.v2 as wr
    except ImportError as error:
        raise UserError(ABSENT) from error
    return wr, expr


def _own_entity() -> str:
    import wandb

    return str(wandb.Api().default_entity)


def _known(mark: Path) -> str:
    try:
        return str(json.loads(mark.read_text(encoding="utf-8"))["id"])
    except (OSError, ValueError, KeyError):
        return ""


if __name__ == "__main__":
    main()
