"""One table per panel, as Markdown, CSV, LaTeX and JSON from the same cells."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from coincide.report.commands import repeat
from coincide.report.compare import FULL, Note, Panel, Row, primary
from coincide.report.statistics import Estimate

STAGES = ("features", "select", "train", "evaluate")
MISSING = "–"


def stages(panel: Panel) -> list[str]:
    """Stages that were timed, in the order in which they run."""
    timed = dict.fromkeys(stage for row in panel.rows for stage in row.seconds)
    return [s for s in STAGES if s in timed] + sorted(timed.keys() - set(STAGES))


def header(panel: Panel) -> list[str]:
    """Column heads."""
    return [
        "method", "budget", "examples", "seeds", "Rel. (%)", *(c.name for c in panel.columns),
        *(f"{stage} (s)" for stage in stages(panel)),
    ]  # fmt: skip


def cells(panel: Panel, row: Row) -> list[str]:
    """One row as text. A missing score is a dash, never a number."""
    seconds = [row.seconds.get(stage) for stage in stages(panel)]
    return [
        row.label, percent(row.budget), f"{row.examples:,}", str(len(row.runs)),
        number(row.rel.estimate), *score_cells(panel, row),
        *(MISSING if value is None else f"{value:,.0f}" for value in seconds),
    ]  # fmt: skip


def score_cells(panel: Panel, row: Row) -> list[str]:
    """The scores of a row in the order of the columns."""
    return [number(row.scores.get(c.name), digits(panel, c.name)) for c in panel.columns]


def digits(panel: Panel, column: str) -> int:
    """Decimals: one where scores are per cent or points, three where they are fractions."""
    means = [abs(row.scores[column].mean) for row in panel.rows if column in row.scores]
    return 3 if means and max(means) <= 1 else 1


def number(value: Estimate | None, decimals: int = 1) -> str:
    """``mean ± half width``; no interval with one seed; a dash when missing."""
    if value is None:
        return MISSING
    half = value.half_width
    mean = f"{value.mean:.{decimals}f}"
    return mean if half is None else f"{mean} ± {half:.{decimals}f}"


def percent(fraction: float) -> str:
    """``20%``, with as many digits as it takes up to four."""
    return f"{100 * fraction:.4g}%"


def column_notes(panel: Panel) -> list[str]:
    """What each number is: benchmark, metric, protocol, samples."""
    found = []
    for column in panel.columns:
        runs = [run for row in panel.rows if column.name in row.scores for run in row.runs]
        sizes = sorted({primary(run)[column.name].n for run in runs})
        n = " or ".join(f"{size:,}" for size in sizes) or "no"
        protocol = column.protocol or "protocol not recorded"
        found.append(f"{column.name}: {column.metric}; {protocol}; {n} samples.")
    return found


def missing_notes(panel: Panel) -> list[str]:
    """Each score that is missing, and why."""
    return [
        f"{row.label}, {row.examples:,} examples: no {name}: {why}."
        for row in panel.rows
        for name, why in row.missing.items()
    ]


# --- Markdown ---------------------------------------------------------------------------------


def markdown(panels: Sequence[Panel]) -> str:
    """A section per panel; ± is the half width of the 95 % t interval over seeds."""
    legend = (
        "Rel. (%) is the mean over benchmarks of 100 × score / score of our own full-data run; "
        f"± is the half width of the 95 % t interval over seeds; {MISSING} is missing.\n"
    )
    return "\n".join(["# Data selection: comparison\n", legend, *map(_md_panel, panels)])


def _md_panel(panel: Panel) -> str:
    head = header(panel)
    lines = [f"## {_md(panel.title)}", "", _md_row(head), _md_rule(len(head))]
    lines += [_md_row(cells(panel, row)) for row in panel.rows]
    notes = [_md_note(note) for note in panel.notes]
    notes += [f"- {_md(text)}" for text in (*column_notes(panel), *missing_notes(panel))]
    return "\n".join([*lines, "", *notes, ""])


_MD = str.maketrans({c: f"\\{c}" for c in "\\`*_[]<>|#$~&"})


def _md(text: str) -> str:
    return text.translate(_MD)


def _md_row(texts: Sequence[str]) -> str:
    return "| " + " | ".join(map(_md, texts)) + " |"


def _md_rule(columns: int) -> str:
    return "| --- |" + " ---: |" * (columns - 1)


def _md_note(note: Note) -> str:
    command = note.command.replace("`", "'")
    return f"- {_md(note.text)}" + (f" `{command}`" if command else "")


# --- CSV --------------------------------------------------------------------------------------


def comma_separated(panels: Sequence[Panel]) -> str:
    """One line per row and value: long form at full precision, ready for any plotting tool.

    Text that a spreadsheet would take for a formula gets a leading apostrophe.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        "data target suite method variant setting budget examples seeds column mean low high"
        .split()
    )  # fmt: skip
    for panel in panels:
        for row in panel.rows:
            of_row = [
                *map(_csv, (panel.data, panel.target, panel.suite, row.method, row.variant)),
                _csv(row.label), row.budget, row.examples, len(row.runs),
            ]  # fmt: skip
            for name, *triple in _values(panel, row):
                writer.writerow([*of_row, _csv(name), *triple])
    return out.getvalue()


def _values(panel: Panel, row: Row) -> list[tuple[str, Any, Any, Any]]:
    found = {"rel_own": row.rel.estimate}
    found |= {column.name: row.scores.get(column.name) for column in panel.columns}
    estimates = [
        (name, None, None, None) if e is None else (name, e.mean, e.low, e.high)
        for name, e in found.items()
    ]
    return [*estimates, *((f"seconds_{s}", v, None, None) for s, v in row.seconds.items())]


def _csv(text: str) -> str:
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


# --- LaTeX ------------------------------------------------------------------------------------


def latex(panels: Sequence[Panel]) -> str:
    """A booktabs table per panel, a rule between budgets; needs the package booktabs alone."""
    return "\n".join(_tex_panel(panel) for panel in panels)


def _tex_panel(panel: Panel) -> str:
    head = header(panel)
    lines = [f"% {panel.title}", r"\begin{tabular}{l" + "r" * (len(head) - 1) + "}", r"\toprule"]
    lines.append(_tex_row(head))
    budget = None
    for row in panel.rows:
        if row.examples != budget:
            lines.append(r"\midrule")
        budget = row.examples
        lines.append(_tex_row(cells(panel, row)))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


_TEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
    | {"±": r"$\pm$", "–": "--", "<": r"\textless{}", ">": r"\textgreater{}"}
    | {"[": "{[}", "]": "{]}", "*": "{*}"}  # \\ takes what follows it in brackets, or a star
)


def _tex_row(texts: Sequence[str]) -> str:
    return " & ".join(text.translate(_TEX) for text in texts) + r" \\"


# --- JSON -------------------------------------------------------------------------------------


def as_json(panels: Sequence[Panel]) -> list[dict[str, Any]]:
    """Everything behind the tables, for other programs."""
    return [
        {
            "data": panel.data,
            "target": panel.target,
            "suite": panel.suite,
            "columns": [asdict(column) for column in panel.columns],
            "notes": [asdict(note) for note in panel.notes],
            "rows": [_row_json(row) for row in panel.rows],
        }
        for panel in panels
    ]


def _row_json(row: Row) -> dict[str, Any]:
    return {
        "method": row.method,
        "variant": row.variant,
        "reference": row.reference,
        "label": row.label,
        "full": row.method == FULL,
        "rank": row.rank,
        "budget": row.budget,
        "examples": row.examples,
        "seeds": row.seeds,
        "rel_own": asdict(row.rel),
        "scores": {name: asdict(value) for name, value in row.scores.items()},
        "stderr_over_samples": dict(row.stderr),
        "missing": dict(row.missing),
        "seconds": {stage: round(value, 1) for stage, value in row.seconds.items()},
        "composition": row.composition,
        "runs": [
            {"seed": run.seed, "command": repeat(run), "keys": dict(run.keys)} for run in row.runs
        ],
    }
