"""A panel's table as Markdown, CSV, LaTeX and JSON, from the same cells."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from coincide.report.commands import repeat
from coincide.report.contents import SHORT
from coincide.report.notes import primary, read_share
from coincide.report.paired import Difference
from coincide.report.pairs import LEFT_OUT, Pairs
from coincide.report.published import protocol_of, protocols
from coincide.report.records import FULL, Note, Panel, PanelRow
from coincide.report.tables import (
    Line,
    any_read,
    caption,
    cells,
    column_notes,
    header,
    lines,
    missing_notes,
)

# --- Markdown ---------------------------------------------------------------------------------


def markdown(panels: Sequence[Panel], pairs: Sequence[Pairs]) -> str:
    """A section per panel; differences are given against the random subset of the same budget."""
    return "\n".join(["# Data selection: comparison\n", *map(_md_panel, panels, pairs)])


def _md_panel(panel: Panel, pairs: Pairs) -> str:
    head = header(panel)
    table = [f"## {_md(panel.title)}", "", _md_row(head), _md_rule(len(head))]
    table += [_md_row(cells(panel, line)) for line in lines(panel)]
    notes = [_md_note(note) for note in panel.notes]
    said = (*against_random(panel, pairs), *column_notes(panel), *missing_notes(panel))
    notes += [f"- {_md(text)}" for text in said]
    notes += [f"- {_md(text)}." for text in pairs.why if LEFT_OUT in text]
    return "\n".join([*table, "", *map(_md, caption(panel)), "", *notes, ""])


def against_random(panel: Panel, pairs: Pairs) -> list[str]:
    """Lines: each row minus the random subset of its size, with interval and verdict.

    Random subsets of some sources only are controls; nothing is compared with them.
    """
    found = []
    for i, row in enumerate(panel.rows):
        for j, other in enumerate(panel.rows):
            drawn = other.method == "random" and not other.setting.get("method.sources")
            same = drawn and other.examples == row.examples
            difference = pairs.between(i, j) if same and i != j else None
            if difference:
                who = f"{row.label} minus {other.label}, {row.examples:,} examples"
                found.append(f"{who}: {pairs.of} {_spoken(difference)}.")
    return found


def _spoken(found: Difference) -> str:
    low, mean, high = (f"{value:+.3g}" for value in (found.low, found.mean, found.high))
    return f"{mean}, 95 % from {low} to {high}: {found.verdict}"


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
    """One line per row and value: long form with full precision, for any plotting tool.

    Text that a spreadsheet would take for a formula gets a leading apostrophe.
    """
    out, read = io.StringIO(), any(any_read(panel) for panel in panels)
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        "data target suite method variant setting budget examples seeds column mean low high source"
        .split() + ["read"] * read
    )  # fmt: skip
    for panel in panels:
        for line in lines(panel):
            names = (_name(panel, "data", panel.data), _name(panel, "target", panel.target))
            of_panel = [*map(_csv, (*names, panel.suite))]
            for name, *triple in _values(panel, line):
                more = [read_share(line.row, name) if line.row else None] * read
                of_line = [*of_panel, *_csv_row(line), _csv(name), *triple]
                writer.writerow([*of_line, _source(line, name), *more])
    return out.getvalue()


def _name(panel: Panel, part: str, name: str) -> str:
    """The name of the panel's data or target, with digits of its content if others share it."""
    shared = f"{part} " in panel.apart
    return f"{name} {panel.contents[part][:SHORT]}" if shared else name


def _csv_row(line: Line) -> list[Any]:
    if line.row is None:
        method = line.printed.method if line.printed else line.label
        return [_csv(method), "", _csv(line.label), "", "", ""]
    row = line.row
    size = [row.budget, row.examples, len(row.runs)]
    return [*map(_csv, (row.method, row.variant, row.label)), *size]


def _source(line: Line, column: str) -> str:
    if line.table is None:
        return "measured"
    source = line.table.printed.source
    return source + (f"; {protocol_of(column)}" if column in line.scores else "")


_REL = {"rel": "rel_own", "rel_chance": "rel_own_above_chance", "rel_zoo": "rel_zoo"}


def _values(panel: Panel, line: Line) -> list[tuple[str, Any, Any, Any]]:
    found = {_REL[kind]: rel.estimate for kind, rel in line.rel.items()}
    found |= {column.name: line.scores.get(column.name) for column in panel.columns}
    estimates = [
        (name, None, None, None) if e is None else (name, e.mean, e.low, e.high)
        for name, e in found.items()
    ]
    if line.row is None:
        return estimates
    osc = [] if line.row.osc is None else [("osc", line.row.osc, None, None)]
    seconds = ((f"seconds_{s}", v, None, None) for s, v in line.row.seconds.items())
    return [*estimates, *seconds, *osc]


def _csv(text: str) -> str:
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


# --- LaTeX ------------------------------------------------------------------------------------


def latex(panels: Sequence[Panel]) -> str:
    """A booktabs table per panel, with a rule between budgets; needs only the package booktabs."""
    return "\n".join(_tex_panel(panel) for panel in panels)


def _tex_panel(panel: Panel) -> str:
    head = header(panel)
    about = [f"% {text}" for text in (panel.title, *caption(panel))]
    body = [r"\begin{tabular}{l" + "r" * (len(head) - 1) + "}", r"\toprule", _tex_row(head)]
    budget = None
    for line in lines(panel):
        if line.row and line.row.examples != budget:
            body.append(r"\midrule")
            budget = line.row.examples
        body.append(_tex_row(cells(panel, line)))
    return "\n".join([*about, *body, r"\bottomrule", r"\end{tabular}", ""])


_TEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
    | {"±": r"$\pm$", "–": "--", "†": r"$\dagger$", "<": r"\textless{}", ">": r"\textgreater{}"}
    | {"[": "{[}", "]": "{]}", "*": "{*}"}  # \\ takes what follows it in brackets, or a star
)


def _tex_row(texts: Sequence[str]) -> str:
    return " & ".join(text.translate(_TEX) for text in texts) + r" \\"


# --- JSON -------------------------------------------------------------------------------------


def as_json(panel: Panel, pairs: Pairs) -> dict[str, Any]:
    """All numbers behind the table, for other programs."""
    return {
        "data": panel.data,
        "target": panel.target,
        "suite": panel.suite,
        **({"contents": dict(panel.contents)} if panel.apart else {}),
        "columns": [vars(column) for column in panel.columns],
        "caption": caption(panel),
        "notes": [vars(note) for note in panel.notes],
        "rows": [_row_json(row, pairs.intervals.get(i)) for i, row in enumerate(panel.rows)],
        "published": _published_json(panel),
        "differences": _pairs_json(panel, pairs),
    }


def json_text(value: Any, depth: int = 3) -> str:
    """``value`` as JSON with its upper ``depth`` levels on lines of their own: a row, or a pair of
    rows, is one line.
    """
    if depth and value and isinstance(value, dict):
        named = (f"{json.dumps(k)}: {json_text(item, depth - 1)}" for k, item in value.items())
        return "{\n" + ",\n".join(named) + "\n}"
    if depth and value and isinstance(value, list):
        return "[\n" + ",\n".join(json_text(item, depth - 1) for item in value) + "\n]"
    return json.dumps(value, ensure_ascii=False)


def _row_json(row: PanelRow, drawn: tuple[float, float] | None) -> dict[str, Any]:
    return {
        "method": row.method,
        "variant": row.variant,
        "reference": row.reference,
        "label": row.label,
        "full": row.method == FULL,
        "target_aware": row.target_aware,
        "rank": row.rank,
        "budget": row.budget,
        "examples": row.examples,
        "seeds": row.seeds,
        "rel_own": asdict(row.rel),
        "rel_own_bootstrap": list(drawn) if drawn else None,
        "rel_own_above_chance": asdict(row.rel_chance),
        "rel_zoo": asdict(row.rel_zoo),
        "scores": {name: vars(value) for name, value in row.scores.items()},
        "stderr_over_samples": dict(row.stderr),
        **_replies_json(row),
        "missing": dict(row.missing),
        "seconds": {stage: round(value, 1) for stage, value in row.seconds.items()},
        "charge": asdict(row.charge),
        "osc": row.osc,
        "composition": row.composition,
        "runs": [
            {"seed": run.seed, "command": repeat(run), "keys": dict(run.keys)} for run in row.runs
        ],
    }


def _replies_json(row: PanelRow) -> dict[str, Any]:
    """``readable`` by benchmark; ``lmms_eval`` by benchmark and seed, if it differs from our
    score.
    """
    shares = {name: read_share(row, name) for name in row.scores}
    theirs: dict[str, dict[str, float]] = {}
    for run in row.runs:
        for name, score in primary(run).items():
            if score.lmms_eval is not None:
                theirs.setdefault(name, {})[str(run.seed)] = score.lmms_eval
    found = {"readable": {n: s for n, s in shares.items() if s is not None}, "lmms_eval": theirs}
    return {name: value for name, value in found.items() if value}


def _published_json(panel: Panel) -> list[dict[str, Any]] | None:
    """The published tables with what each is of; None where there are none."""
    return [
        {
            **asdict(table.printed),
            "protocols": {name: dict(protocols()[name]) for name in table.columns},
            "rows": [asdict(row) for row in table.rows],
        }
        for table in panel.zoo
    ] or None


def _pairs_json(panel: Panel, pairs: Pairs) -> dict[str, Any]:
    """Each pair of rows once, the better ranked row first."""
    found: list[Mapping[str, Any]] = [
        {
            "first": i,
            "second": j,
            **vars(difference),
            "benchmarks": {b: vars(d) for b, d in pairs.by_benchmark.get((i, j), {}).items()},
        }
        for (i, j), difference in pairs.overall.items()
    ]
    return {"of": pairs.of, "benchmarks": list(pairs.columns), "why": pairs.why, "pairs": found}
