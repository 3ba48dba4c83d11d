"""The report as one HTML page that needs no network and lets no text from outside act.

Every text is escaped by Jinja; the content security policy allows the one script by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from coincide.report.commands import repeat
from coincide.report.compare import FULL, Panel, Row
from coincide.report.plots import DARK, LIGHT, composition_plot, rel_plot, series
from coincide.report.published import SOURCE, published_beside
from coincide.report.statistics import Estimate
from coincide.report.tables import column_notes, digits, missing_notes, percent, stages
from coincide.schema import Result


@dataclass(frozen=True)
class Cell:
    """One cell of a table: what it shows, what it sorts by, and the text on pointing at it."""

    text: str | None
    sort: float | str = ""
    half: str = ""
    """Half width of the interval, shown beneath; empty without one."""
    why: str = ""
    kind: str = ""


def page(panels: Sequence[Panel]) -> str:
    """The HTML page of ``panels``; the same panels give the same bytes."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    folder = files("coincide.report") / "templates"
    environment = Environment(
        loader=FileSystemLoader(str(folder)), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    script = (folder / "report.js").read_text(encoding="utf-8")
    style = environment.get_template("report.css").render(
        light=_variables(LIGHT), dark=_variables(DARK)
    )
    runs = [run for panel in panels for row in panel.rows for run in row.runs]
    places = series(panels)
    views = [_view(panel, i, places) for i, panel in enumerate(panels, 1)]
    text = environment.get_template("report.html").render(
        panels=views,
        count=len(runs),
        latest=max((run.created for run in runs), default=""),
        style=Markup(style),
        script=Markup(script),
        script_hash=Markup(script_hash(f"\n{script}")),
    )
    return text.lstrip()


def script_hash(script: str) -> str:
    """The hash by which the policy knows the text between ``<script>`` and ``</script>``."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _variables(colours: Sequence[str]) -> str:
    return " ".join(f"--c{i}: {colour};" for i, colour in enumerate(colours))


def _view(panel: Panel, index: int, places: Mapping[str, int]) -> dict[str, Any]:
    from markupsafe import Markup

    return {
        "title": panel.title,
        "notes": panel.notes,
        "head": ["Method", "Place", "Rel.\u00a0(%)", "Budget", "Examples", "Seeds"]
        + [column.name for column in panel.columns] + ["Time"],
        "rows": _rows(panel),
        "rel_plot": Markup(rel_plot(panel, places, f"rel{index}")),
        "composition_plot": Markup(composition_plot(panel, f"composition{index}")),
        "composition": _composition(panel),
        "cost": _cost(panel),
        "columns": column_notes(panel),
        "missing": missing_notes(panel),
        "published": _published(panel),
        "runs": [_run(row, run) for row in panel.rows for run in row.runs],
    }  # fmt: skip


def _rows(panel: Panel) -> list[dict[str, Any]]:
    views, budget = [], None
    for row in panel.rows:
        css = " ".join(("full" * (row.method == FULL), "first" * (row.examples != budget))).strip()
        views.append({"label": row.label, "css": css, "cells": _cells(panel, row)})
        budget = row.examples
    return views


def _cells(panel: Panel, row: Row) -> list[Cell]:
    seeds = ", ".join(map(str, row.seeds))
    return [
        Cell(str(row.rank), row.rank) if row.rank else Cell(None),
        _number(row.rel.estimate, 1, _about_rel(row), "rel"),
        Cell(percent(row.budget), row.budget),
        Cell(f"{row.examples:,}", row.examples),
        Cell(str(len(row.runs)), len(row.runs), why=f"seeds {seeds}"),
        *(
            _number(row.scores.get(c.name), digits(panel, c.name), _about_score(row, c.name))
            for c in panel.columns
        ),
        _duration(sum(row.seconds.values())) if row.seconds else Cell(None),
    ]


def _number(value: Estimate | None, decimals: int, about: str, kind: str = "") -> Cell:
    if value is None:
        return Cell(None, why=about, kind=kind)
    half = "" if value.half_width is None else f"{value.half_width:.{decimals}f}"
    return Cell(f"{value.mean:.{decimals}f}", value.mean, half, about, kind)


def _about_rel(row: Row) -> str:
    return f"over {', '.join(row.rel.columns)}" if row.rel.estimate else row.rel.why


def _about_score(row: Row, column: str) -> str:
    if column in row.missing:
        return row.missing[column]
    values = ", ".join(
        f"seed {seed}: {value:g}"
        for seed, value in zip(row.seeds, row.scores[column].values, strict=True)
    )
    error = row.stderr.get(column)
    return values + (f"; standard error over samples {error:.2g}" if error is not None else "")


def _duration(seconds: float) -> Cell:
    minutes, hours = seconds / 60, seconds / 3600
    if seconds < 90:
        text = f"{seconds:.0f} s" if seconds >= 10 or not seconds else f"{seconds:.1f} s"
    else:
        text = f"{minutes:.0f} min" if minutes < 90 else f"{hours:.1f} h"
    return Cell(text, seconds)


def _cost(panel: Panel) -> dict[str, Any]:
    names = stages(panel)
    rows = [
        {
            "label": f"{row.label}, {percent(row.budget)}",
            "cells": [
                *(_duration(row.seconds[s]) if s in row.seconds else Cell(None) for s in names),
                _duration(sum(row.seconds.values())),
            ],
        }
        for row in panel.rows
    ]
    return {"head": ["Method", *(name.capitalize() for name in names), "Together"], "rows": rows}


def _composition(panel: Panel) -> dict[str, Any] | None:
    sources = sorted({source for row in panel.rows for source in row.composition})
    if not sources:
        return None
    rows = [
        {
            "label": f"{row.label}, {percent(row.budget)}",
            "cells": [_share(row.composition.get(s, 0.0), row.examples) for s in sources],
        }
        for row in panel.rows
    ]
    return {"head": ["Method", *sources], "rows": rows}


def _share(count: float, examples: int) -> Cell:
    share = 100 * count / max(1, examples)
    return Cell(f"{share:.1f}%", share, why=f"{count:,.0f} of {examples:,} examples")


def _published(panel: Panel) -> dict[str, Any] | None:
    table = published_beside(panel.data, panel.target)
    if not table:
        return None
    names = list(table[0].scores)
    rows = [
        {
            "label": row.method,
            "cells": [
                Cell(f"{row.rel:.1f}", row.rel, why=f"printed: {row.rel_printed}", kind="rel"),
                *(Cell(f"{row.scores[name]:.1f}", row.scores[name]) for name in names),
            ],
        }
        for row in table
    ]
    return {"source": SOURCE, "head": ["Method", "Rel.\u00a0(%)", *names], "rows": rows}


def _run(row: Row, run: Result) -> dict[str, Any]:
    facts = [("commit", run.commit or "not recorded"), *sorted(run.keys.items())]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(run.versions.items()))
    return {
        "label": row.label,
        "about": f"{percent(run.budget)}, seed {run.seed}, {run.created or 'no date'}",
        "command": repeat(run),
        "facts": [*facts, ("versions", versions)],
        "config": json.dumps(run.config, indent=1, sort_keys=True, ensure_ascii=False),
    }
