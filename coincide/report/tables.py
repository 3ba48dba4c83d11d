"""One table per panel, as Markdown, CSV, LaTeX and JSON from the same cells."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from coincide.report.compare import Panel, Row
from coincide.report.statistics import Estimate

STAGES = ("features", "select", "train", "evaluate")


def header(panel: Panel) -> list[str]:
    """Column heads."""
    return [
        "method", "budget", "examples", "seeds", "Rel. (%)", *panel.columns,
        *(f"{stage} (s)" for stage in STAGES),
    ]  # fmt: skip


def cells(panel: Panel, row: Row) -> list[str]:
    """One row as text. A missing score is a dash, never a number."""
    scores = [number(row.scores.get(column)) for column in panel.columns]
    seconds = [f"{row.seconds(stage):.0f}" for stage in STAGES]
    return [
        row.label, f"{100 * row.budget:.4g}%", f"{row.examples:,}", str(len(row.runs)),
        number(row.rel.estimate), *scores, *seconds,
    ]  # fmt: skip


def number(value: Estimate | None) -> str:
    """``mean ± half width`` with one decimal; no interval with one seed; a dash when missing."""
    if value is None:
        return "–"
    half = value.half_width
    return f"{value.mean:.1f}" + ("" if half is None else f" ± {half:.1f}")


def markdown(panels: Sequence[Panel]) -> str:
    """A section per panel; ± is the half width of the 95 % t interval over seeds."""
    parts = []
    for panel in panels:
        head = header(panel)
        lines = [f"## {_md(panel.title)}", "", _md_row(head), _md_row(["---"] * len(head))]
        lines += [_md_row(cells(panel, row)) for row in panel.rows]
        parts.append("\n".join([*lines, "", *(_md(note) for note in notes(panel))]))
    return "\n\n".join(parts) + "\n"


def notes(panel: Panel) -> list[str]:
    """What the columns are, what is missing and why."""
    found = [
        f"{name}: {panel.metrics[name]}; {panel.protocols[name] or 'protocol not recorded'}."
        for name in panel.columns
    ]
    for row in panel.rows:
        for name, why in row.missing.items():
            found.append(f"{row.label} has no {name}: {why}.")
    return [*panel.warnings, *dict.fromkeys(found)]


def comma_separated(panels: Sequence[Panel]) -> str:
    """One line per run-group and value: long form, ready for any plotting tool."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        "data target suite method variant budget examples seeds column mean low high".split()
    )
    for panel in panels:
        for row in panel.rows:
            columns: dict[str, Estimate | None] = {"rel_own": row.rel.estimate}
            columns |= {name: row.scores.get(name) for name in panel.columns}
            for name, value in columns.items():
                triple = ["", "", ""] if value is None else [value.mean, value.low, value.high]
                writer.writerow(
                    [panel.data, panel.target, panel.suite, row.method, row.variant, row.budget,
                     row.examples, len(row.runs), name, *triple]
                )  # fmt: skip
    return out.getvalue()


def latex(panels: Sequence[Panel]) -> str:
    """A booktabs table per panel."""
    parts = []
    for panel in panels:
        head = header(panel)[: -len(STAGES)]
        lines = [r"\begin{tabular}{l" + "r" * (len(head) - 1) + "}", r"\toprule"]
        lines += [_tex_row(head), r"\midrule"]
        lines += [_tex_row(cells(panel, row)[: len(head)]) for row in panel.rows]
        lines += [r"\bottomrule", r"\end{tabular}"]
        parts.append(f"% {' '.join(panel.title.split())}\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def as_json(panels: Sequence[Panel]) -> list[dict[str, Any]]:
    """Everything behind the tables, for other programs."""
    return [
        {
            "data": panel.data,
            "target": panel.target,
            "suite": panel.suite,
            "metrics": dict(panel.metrics),
            "protocols": dict(panel.protocols),
            "warnings": list(panel.warnings),
            "rows": [_row_json(row) for row in panel.rows],
        }
        for panel in panels
    ]


def _row_json(row: Row) -> dict[str, Any]:
    return {
        "method": row.method,
        "variant": row.variant,
        "budget": row.budget,
        "examples": row.examples,
        "seeds": row.seeds,
        "rel_own": asdict(row.rel),
        "scores": {name: asdict(value) for name, value in row.scores.items()},
        "missing": dict(row.missing),
        "seconds": {stage: round(row.seconds(stage), 1) for stage in STAGES},
        "composition": dict(row.runs[0].composition),
        "keys": [dict(run.keys) for run in row.runs],
    }


_MD = str.maketrans({c: f"\\{c}" for c in "\\`*_[]<>|#"})
_TEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
    | {"±": r"$\pm$", "–": "--", "<": r"\textless{}", ">": r"\textgreater{}"}
)


def _md(text: str) -> str:
    return text.translate(_MD).replace("\n", " ")


def _md_row(texts: Sequence[str]) -> str:
    return "| " + " | ".join(text if text == "---" else _md(text) for text in texts) + " |"


def _tex_row(texts: Sequence[str]) -> str:
    return " & ".join(text.translate(_TEX).replace("\n", " ") for text in texts) + r" \\"
