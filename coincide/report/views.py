"""The tables of the page: cells with their text, sort value, and tooltip."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from coincide.ledger.result import Result
from coincide.report.commands import repeat
from coincide.report.notes import primary, read_share
from coincide.report.overlap import Overlaps, expected_share
from coincide.report.paired import Difference
from coincide.report.pairs import Pairs
from coincide.report.published import PublishedTable, protocol_of
from coincide.report.records import FULL, Panel, PanelRow
from coincide.report.statistics import Estimate, Relative
from coincide.report.tables import (
    OTHER,
    Line,
    digits,
    is_other,
    lines,
    percent,
    rel_kinds,
    share,
    stages,
)

REL_HEADS = {
    "rel": "Rel.\u00a0(%)", "rel_chance": "above chance\u00a0(%)",
    "rel_zoo": "against published\u00a0(%)",
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One cell of a table: its text, the value it is sorted by, and its tooltip."""

    text: str | None
    sort: float | str = ""
    half: str = ""
    """Half width of the interval, shown below; empty without one."""
    why: str = ""
    """Tooltip."""
    kind: str = ""
    read: str = ""
    """Share of replies that could be read, shown below a score; empty if unknown."""


def head(panel: Panel) -> list[str]:
    """Column heads of the ranked table."""
    return [
        "Method", "Place", *(REL_HEADS[kind] for kind in rel_kinds(panel)), "Budget", "Examples",
        "Seeds", *(column.name for column in panel.columns), "Time",
    ]  # fmt: skip


def ranked(panel: Panel, pairs: Pairs) -> list[dict[str, Any]]:
    """The lines of the ranked table; the first one of each budget and group is marked."""
    drawn = {id(row): pairs.intervals.get(i) for i, row in enumerate(panel.rows)}
    views: list[dict[str, Any]] = []
    before: tuple[int, bool] | None = None
    for line in lines(panel):
        css = "published" if line.row is None else ""
        note = f"in {line.table.printed.short}" if line.table else ""
        if line.row is not None:
            group = (line.row.examples, line.row.target_aware)
            css = " ".join(["full"] * (line.row.method == FULL) + ["first"] * (before != group))
            note = "target-aware" if line.row.target_aware else ""
            before = group
        views.append(
            {
                "label": line.label,
                "css": css,
                "note": note,
                "cells": _cells(panel, line, drawn.get(id(line.row))),
            }
        )
    return views


def _cells(panel: Panel, line: Line, drawn: tuple[float, float] | None) -> list[Cell]:
    row = line.row
    rank = Cell(str(row.rank), row.rank) if row and row.rank else Cell(None)
    return [
        rank,
        *(_rel(line.rel.get(kind), kind, drawn) for kind in rel_kinds(panel)),
        *(_size(row) if row else [Cell(None)] * 3),
        *(_score(panel, line, column.name) for column in panel.columns),
        _time(row) if row else Cell(None),
    ]


def _rel(value: Relative | None, kind: str, drawn: tuple[float, float] | None) -> Cell:
    css = "rel" if kind == "rel" else "rel other"
    if value is None:
        return Cell(None, kind=css)
    about = f"over {', '.join(value.columns)}" if value.estimate else value.why
    both = ""
    if drawn and kind == "rel":
        both = f"over samples and seeds, by bootstrap, {drawn[0]:.1f} to {drawn[1]:.1f}"
    return _number(
        value.estimate, 1, "; ".join(filter(None, (about, value.no_interval, both))), css
    )


def _size(row: PanelRow) -> list[Cell]:
    seeds = ", ".join(map(str, row.seeds))
    return [
        Cell(percent(row.budget), row.budget),
        Cell(f"{row.examples:,}", row.examples),
        Cell(str(len(row.runs)), len(row.runs), why=f"seeds {seeds}"),
    ]


def _score(panel: Panel, line: Line, name: str) -> Cell:
    value, decimals = line.scores.get(name), digits(panel, name)
    if line.row is None:
        about = f"published: {protocol_of(name)}" if value else "not published in this metric"
        cell = _number(value, decimals, about)
        return replace(cell, text=f"{cell.text} {OTHER}") if is_other(panel, line, name) else cell
    cell = _number(value, decimals, _about_score(line.row, name))
    read = share(read_share(line.row, name)) if value is not None else ""
    return replace(cell, read=f"read {read}") if read else cell


def _number(value: Estimate | None, decimals: int, about: str, kind: str = "") -> Cell:
    if value is None:
        return Cell(None, why=about, kind=kind)
    half = "" if value.half_width is None else f"{value.half_width:.{decimals}f}"
    return Cell(f"{value.mean:.{decimals}f}", value.mean, half, about, kind)


def _about_score(row: PanelRow, column: str) -> str:
    if column in row.missing:
        return row.missing[column]
    values = ", ".join(
        f"seed {seed}: {value:g}"
        for seed, value in zip(row.seeds, row.scores[column].values, strict=True)
    )
    error = row.stderr.get(column)
    score = primary(row.runs[0])[column]
    over = "samples" if score.units is None else f"{score.units:,} units ({score.unit})"
    return values + (f"; standard error over {over} {error:.2g}" if error is not None else "")


def _time(row: PanelRow) -> Cell:
    whole, shared = (row.charge.total(shared=shared, gpu=False) for shared in (False, True))
    if whole is None:
        return Cell(None)
    cell = duration(whole)
    about = "" if shared is None else f"{duration(shared).text} with shared parts divided; "
    return Cell(cell.text, cell.sort, why=f"{about}evaluation is not counted")


def duration(seconds: float) -> Cell:
    """Seconds as text: ``48 s``, ``12 min``, ``3.4 h``."""
    minutes, hours = seconds / 60, seconds / 3600
    if seconds < 90:
        text = f"{seconds:.0f} s" if seconds >= 10 or not seconds else f"{seconds:.1f} s"
    else:
        text = f"{minutes:.0f} min" if minutes < 90 else f"{hours:.1f} h"
    return Cell(text, seconds)


def cost(panel: Panel) -> dict[str, Any]:
    """Table of seconds by stage; the last columns are the cost of a trained model."""
    names = stages(panel)
    gpu = any(row.charge.gpu_whole for row in panel.rows)
    rows = []
    for row in panel.rows:
        cells = [duration(row.seconds[s]) if s in row.seconds else Cell(None) for s in names]
        for over_gpu in (False, True) if gpu else (False,):
            for shared in (False, True):
                total = row.charge.total(shared=shared, gpu=over_gpu)
                unknown = Cell(None, why="what was shared is not recorded")
                cells.append(unknown if total is None else duration(total))
        cells.append(_osc(row))
        rows.append({"label": f"{row.label}, {percent(row.budget)}", "cells": cells})
    totals = ["Total", "Shared parts divided"] + (["GPU time", "GPU time, divided"] if gpu else [])
    head = ["Method", *(name.capitalize() for name in names), *totals, "OSC"]
    return {"head": head, "rows": rows}


def _osc(row: PanelRow) -> Cell:
    if row.osc is None:
        return Cell(None, why=row.why_no_osc)
    return Cell(f"{row.osc:.2f}", row.osc, why="below 1 the selection paid")


def composition(panel: Panel) -> dict[str, Any] | None:
    """Table of the share of each source; None without any."""
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


def matrices(panel: Panel, pairs: Pairs) -> list[dict[str, Any]]:
    """Per budget, the verdict of each row against each other one.

    The full run is in all of them.
    """
    if not pairs.overall:
        return []
    sizes = dict.fromkeys(row.examples for row in panel.rows if row.method != FULL)
    found = []
    for size in sizes:
        members = [i for i, r in enumerate(panel.rows) if r.method == FULL or r.examples == size]
        if sum(panel.rows[i].method != FULL for i in members) and len(members) > 1:
            rows = [
                {
                    "label": panel.rows[i].label,
                    "cells": [_verdict(pairs, i, j) for j in members],
                }
                for i in members
            ]
            found.append({"title": percent(panel.rows[members[-1]].budget), "rows": rows})
    return found


_SIGNS = {"better": "▲", "worse": "▼", "indistinguishable": "="}


def _verdict(pairs: Pairs, i: int, j: int) -> Cell:
    if i == j:
        return Cell("", kind="self")
    found = pairs.between(i, j)
    if found is None:
        return Cell(None, why="no common samples, and too few seeds")
    decimals = 1 if pairs.of.startswith("Rel") else 3
    said, least, most = (_signed(value, decimals) for value in (found.mean, found.low, found.high))
    about = f"{found.verdict}: {said}, 95 % from {least} to {most}; {_rests_on(found)}"
    return Cell(f"{_SIGNS[found.verdict]} {said}", found.mean, why=about, kind=found.verdict)


def _signed(value: float, decimals: int) -> str:
    return f"{value:+.{decimals}f}".replace("-", "−")


def _rests_on(found: Difference) -> str:
    if not found.samples:
        return "from the scores of the seeds alone"
    seeds = "and seeds" if found.seeds else "alone, since one side has a single seed"
    return f"over {found.samples:,} units of samples {seeds}"


def overlap_matrix(panel: Panel, found: Overlaps) -> dict[str, Any] | None:
    """Per cent of the smaller subset that is part of the larger one; None with fewer than two."""
    if len(found.rows) < 2:
        return None
    rows = [
        {
            "label": f"{panel.rows[i].label}, {percent(panel.rows[i].budget)}",
            "cells": [_overlap(panel, found, i, j) for j in found.rows],
        }
        for i in found.rows
    ]
    return {"rows": rows, "absent": found.absent}


def _overlap(panel: Panel, found: Overlaps, i: int, j: int) -> Cell:
    pair = (min(i, j), max(i, j))
    if pair not in found.share:
        return Cell("", kind="self", why="one subset for all seeds")
    share = 100 * found.share[pair]
    first, second = panel.rows[i], panel.rows[j]
    pool = round(first.examples / first.budget) if first.budget else 0
    chance = 100 * expected_share(first.examples, second.examples, pool)
    about = (
        f"{share:.1f} % of the smaller; Jaccard {found.jaccard[pair]:.3f}; at random {chance:.0f} %"
    )
    return Cell(f"{share:.0f}", share, why=about, kind=f"heat h{min(9, int(share // 10))}")


def published(panel: Panel) -> list[dict[str, Any]]:
    """The whole published tables, each with what it is of; none if nothing is published."""
    return [_published(table) for table in panel.zoo]


def _published(table: PublishedTable) -> dict[str, Any]:
    names = table.columns
    rows = [
        {
            "label": row.method,
            "cells": [
                Cell(f"{row.rel:.1f}", row.rel, why=f"printed: {row.rel_printed}", kind="rel"),
                *(
                    Cell(f"{row.scores[name]:.1f}", row.scores[name])
                    if name in row.scores
                    else Cell(None, why="not known")
                    for name in names
                ),
            ],
        }
        for row in table.rows
    ]
    of, said = table.printed, "; ".join(f"{name}: {protocol_of(name)}" for name in names)
    about = "Rel. is recomputed from the columns against the table's own full row"
    about += ", and as printed where a row has none"
    return {
        "title": f"{of.target} on {of.data}, {percent(of.budget)}",
        "source": of.source + (f". By the protocols {said}" if said else ""),
        "rel": about if names else "Rel. is as printed",
        "head": ["Method", "Rel.\u00a0(%)", *names],
        "rows": rows,
    }


def run_view(row: PanelRow, run: Result) -> dict[str, Any]:
    """A run's command, artifacts and configuration."""
    facts: Sequence[tuple[str, str]] = [
        ("commit", run.commit or "not recorded"), *sorted(run.keys.items())
    ]  # fmt: skip
    versions = ", ".join(f"{name} {version}" for name, version in sorted(run.versions.items()))
    hardware = ", ".join(f"{name}: {value}" for name, value in sorted(run.hardware.items()))
    return {
        "label": row.label,
        "about": f"{percent(run.budget)}, seed {run.seed}, {run.created or 'no date'}",
        "command": repeat(run),
        "facts": [*facts, ("versions", versions), ("hardware", hardware or "not recorded")],
        "config": json.dumps(run.config, indent=1, sort_keys=True, ensure_ascii=False),
    }
