"""The cells of a panel's table, the same for every format."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from coincide.ledger.result import Result
from coincide.report.cost import STAGES
from coincide.report.notes import primary, read_share
from coincide.report.published import PublishedRow, PublishedTable
from coincide.report.records import FULL, Column, Panel, PanelRow
from coincide.report.statistics import Estimate, Relative, relative

MISSING = "–"
OTHER = "†"
"""Mark at a published figure that was measured with another protocol than the column's."""
REL = {"rel": "Rel. (%)", "rel_chance": "above chance (%)", "rel_zoo": "against published (%)"}
"""Field of a row -> column head. The columns differ in what is 100 %, and are never mixed."""


@dataclass(frozen=True)
class Line:
    """One line of a table: a measured row, or what a paper prints for that method."""

    label: str
    row: PanelRow | None
    printed: PublishedRow | None
    scores: Mapping[str, Estimate]
    rel: Mapping[str, Relative]
    table: PublishedTable | None = None
    """Of a printed row, its table."""

    @property
    def group(self) -> int | None:
        """Number of examples of a measured row: lines of one budget stand together."""
        return self.row.examples if self.row else None


def lines(panel: Panel) -> list[Line]:
    """The rows of a panel, each followed by the published rows of its method at its budget.

    Published rows of which Rel. alone is known have no line: their Rel. is over other benchmarks.
    """
    found, shown = [], set()
    for row in panel.rows:
        rel = {kind: getattr(row, kind) for kind in rel_kinds(panel)}
        found.append(Line(row.label, row, None, row.scores, rel))
        for table in panel.zoo:
            printed = table.row(row.method)
            at_budget = row.method == FULL or table.is_at(row.budget)
            if printed and printed.scores and at_budget and (row.method, table.name) not in shown:
                shown.add((row.method, table.name))
                found.append(_printed(panel, row.method, printed, table))
    return found


def _printed(panel: Panel, method: str, printed: PublishedRow, zoo: PublishedTable) -> Line:
    columns = [c.name for c in panel.columns if zoo.prints(c.name, c.metric, c.protocol)]
    scores = {b: printed.scores[b] for b in columns if b in printed.scores}
    rel = relative([scores], [zoo.rows[0].scores], zoo.agreeing(panel.columns), full_is_exact=True)
    values = {b: Estimate(v, None, None, (v,)) for b, v in scores.items()}
    several = sum(bool(table.columns) for table in panel.zoo) > 1
    at = f" {'beside' if method == FULL else 'at'} {percent(zoo.printed.budget)}" * several
    label = f"{method}, published{at}"
    return Line(label, None, printed, values, {"rel_zoo": rel}, zoo)


def rel_kinds(panel: Panel) -> list[str]:
    """Which of the three Rel. columns a panel has."""
    found = ["rel"]
    if any(column.chance > 0 for column in panel.columns):
        found.append("rel_chance")
    return [*found, "rel_zoo"] if any(table.columns for table in panel.zoo) else found


def stages(panel: Panel) -> list[str]:
    """Stages with recorded times, in the order in which they run."""
    timed = dict.fromkeys(stage for row in panel.rows for stage in row.seconds)
    return [s for s in STAGES if s in timed] + sorted(timed.keys() - set(STAGES))


def header(panel: Panel) -> list[str]:
    """Column heads."""
    return [
        "method", "budget", "examples", "seeds", *(REL[kind] for kind in rel_kinds(panel)),
        *(c.name for c in panel.columns),
        *(f"{stage} (s)" for stage in stages(panel)),
    ]  # fmt: skip


def terminal_cells(panel: Panel, line: Line) -> dict[str, str]:
    """Column head -> cell, as many as fit a terminal: Rel. with interval, scores without."""
    row = line.row
    zoo = {"rel_zoo": "published = 100"} if "rel_zoo" in rel_kinds(panel) else {}
    rel = {"rel": "Rel. (%)", **zoo}
    return {
        "method": line.label,
        "budget": percent(row.budget) if row else MISSING,
        "examples": f"{row.examples:,}" if row else MISSING,
        "seeds": str(len(row.runs)) if row else MISSING,
        **{name: number(r.estimate if (r := line.rel.get(k)) else None) for k, name in rel.items()},
        **{
            c.name: MISSING if (e := line.scores.get(c.name)) is None
            else f"{e.mean:.{digits(panel, c.name)}f}{OTHER * is_other(panel, line, c.name)}"
            + _unread(line, c.name)
            for c in panel.columns
        },
        **({"read": share(_read_of(line)) or MISSING} if any_read(panel) else {}),
    }  # fmt: skip


def share(value: float | None) -> str:
    """``97.2%``; 100 % only for exactly all; empty if unknown."""
    return "" if value is None else "100%" if value == 1 else f"{min(100 * value, 99.9):.1f}%"


def _unread(line: Line, column: str) -> str:
    """`` (97.2%)`` if some replies could not be read; empty if all could, or if unknown."""
    found = read_share(line.row, column) if line.row else None
    return f" ({share(found)})" if found is not None and found < 1 else ""


def _read_of(line: Line) -> float | None:
    """Share of a row's replies that could be read, over all benchmarks that know it."""
    known = [
        (score.readable * score.n, score.n)
        for run in (line.row.runs if line.row else ())
        for name, score in primary(run).items()
        if score.readable is not None and name in line.scores
    ]
    total = sum(n for _, n in known)
    return math.fsum(read for read, _ in known) / total if total else None


def any_read(panel: Panel) -> bool:
    """Whether the share of readable replies is known for any score."""
    return any(read_share(row, c.name) is not None for row in panel.rows for c in panel.columns)


def cells(panel: Panel, line: Line) -> list[str]:
    """One line as texts. A missing score is a dash, never a number."""
    row = line.row
    seconds = [row.seconds.get(stage) if row else None for stage in stages(panel)]
    size = [percent(row.budget), f"{row.examples:,}", str(len(row.runs))] if row else [MISSING] * 3
    return [
        line.label, *size,
        *(number(r.estimate if (r := line.rel.get(k)) else None) for k in rel_kinds(panel)),
        *(
            number(line.scores.get(c.name), digits(panel, c.name))
            + (f" {OTHER}" if is_other(panel, line, c.name) else _read_mark(line, c.name))
            for c in panel.columns
        ),
        *(MISSING if value is None else f"{value:,.0f}" for value in seconds),
    ]  # fmt: skip


def _read_mark(line: Line, column: str) -> str:
    """``, read 97.2%`` after a score; empty if the share is unknown."""
    found = read_share(line.row, column) if line.row and column in line.scores else None
    return "" if found is None else f", read {share(found)}"


def caption(panel: Panel) -> list[str]:
    """What the Rel. columns of a panel are computed over, and what their intervals cover."""
    own = _stated(panel, "rel")
    found = [
        "Rel. (%) is the mean over benchmarks of 100 × score / score of our own full-data run"
        + (f", over {own}" if own else "")
        + "; ± is the half width of its 95 % t interval over seeds, those of the full run included."
    ]
    kinds = rel_kinds(panel)
    if "rel_chance" in kinds:
        over = _stated(panel, "rel_chance")
        over = "the same benchmarks" if over == own else over or "no benchmark"
        found.append(f"Above chance: the same of score minus chance, over {over}.")
    if "rel_zoo" in kinds:
        over = _stated(panel, "rel_zoo")
        over = "the same benchmarks" if over == own else over or "no benchmark"
        whole = [table for table in panel.zoo if table.columns]
        hundred = "the full row that is published"
        if len(whole) > 1:
            budgets = " and ".join(percent(table.printed.budget) for table in whole)
            hundred += (
                f" beside the rows of a budget ({budgets}; else {percent(whole[0].printed.budget)})"
            )
        sources = ". ".join(dict.fromkeys(table.printed.source for table in whole))
        found.append(
            f"Against published: the 100 % is {hundred}, over {over}; its own "
            f"noise is not known and not in the interval. {sources}."
        )
        found += _other_protocols(panel, whole)
    if any_read(panel):
        found.append("Read: the share of the replies that could be read by the benchmark's rule.")
    if any(row.target_aware for row in panel.rows):
        found.append("Target-aware methods select by samples of the target tasks: placed apart.")
    return found


def is_other(panel: Panel, line: Line, column: str) -> bool:
    """Whether a published figure was measured with another protocol than our column, so it is
    marked.
    """
    return line.row is None and (
        column in line.scores and column not in line.rel["rel_zoo"].columns
    )  # fmt: skip


def _other_protocols(panel: Panel, zoo: Sequence[PublishedTable]) -> list[str]:
    """What ``against published`` leaves out, and the meaning of the mark at published figures."""
    reasons = [
        (c.name, table.differs(c.name, c.metric, c.protocol))
        for c in panel.columns
        for table in zoo
    ]
    shown = dict.fromkeys((n, why) for n, why in reasons if why and why != "not published")
    said = [f"{name} ({why})" for name, why in shown]
    return [f"Left out of it, {OTHER} where printed: {'; '.join(said)}."] if said else []


def _stated(panel: Panel, kind: str) -> str:
    """The columns of a Rel. and those left out; alternatives if full runs differ."""
    rels = [getattr(row, kind) for row in panel.rows]
    sets = dict.fromkeys(", ".join(rel.columns) for rel in rels if rel.columns)
    names = {column.name for column in panel.columns}
    left = dict.fromkeys(b for rel in rels for b in rel.left_out if rel.columns and b in names)
    return " or over ".join(sets) + (f" (not {', '.join(left)})" if left and sets else "")


def digits(panel: Panel, column: str) -> int:
    """Decimals: one if scores are per cent or points, three if they are fractions."""
    means = [abs(row.scores[column].mean) for row in panel.rows if column in row.scores]
    return 3 if means and max(means) <= 1 else 1


def number(value: Estimate | None, decimals: int = 1) -> str:
    """``mean ± half width``; without interval for one seed; a dash if missing."""
    if value is None:
        return MISSING
    half = value.half_width
    mean = f"{value.mean:.{decimals}f}"
    return mean if half is None else f"{mean} ± {half:.{decimals}f}"


def percent(fraction: float) -> str:
    """``20%``, with as many digits as needed, up to four."""
    return f"{100 * fraction:.4g}%"


def column_notes(panel: Panel) -> list[str]:
    """What each number is: benchmark, metric, protocol, samples."""
    found = []
    for column in panel.columns:
        runs = [run for row in panel.rows if column.name in row.scores for run in row.runs]
        sizes = sorted({primary(run)[column.name].n for run in runs})
        n = " or ".join(f"{size:,}" for size in sizes) or "no"
        protocol = column.protocol or "protocol not recorded"
        found.append(
            f"{column.name}: {column.metric}; {protocol}; {n} samples{_units(runs, column)}."
        )
        found += _theirs(panel, column)
    return found


def _theirs(panel: Panel, column: Column) -> list[str]:
    """lmms-eval's own figures for the runs, if they differ from ours."""
    said = [
        f"{row.label}, {row.examples:,} examples, seed {run.seed}: {score.lmms_eval:.6g}"
        for row in panel.rows
        for run in row.runs
        if (score := primary(run).get(column.name)) and score.lmms_eval is not None
    ]
    return [f"{column.name}, lmms_eval (its own figure): {'; '.join(said)}."] if said else []


def _units(runs: Sequence[Result], column: Column) -> str:
    """``; intervals over 500 units, picture``; empty if no run recorded units."""
    scores = [primary(run)[column.name] for run in runs]
    known = sorted({(score.unit, score.units) for score in scores if score.units is not None})
    if not known:
        return ""
    said = " or ".join(f"{count:,} units ({unit})" for unit, count in known)
    without = sum(score.units is None for score in scores)
    rest = f"; {without} runs did not record them: their samples count as independent"
    return f"; errors and intervals over {said}{rest if without else ''}"


def missing_notes(panel: Panel) -> list[str]:
    """The missing scores with their reasons, each reason once."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in panel.rows:
        for name, why in row.missing.items():
            found.setdefault((name, why), []).append(f"{row.label}, {row.examples:,} examples")
    return [
        f"No {name} of {'any row' if len(who) == len(panel.rows) else '; '.join(who)}: {why}."
        for (name, why), who in found.items()
    ]
