"""The report stage: ledger -> report.md, .csv, .tex, .json and one self-contained report.html."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coincide.report import tables
from coincide.report.compare import Panel, panels
from coincide.report.ledger import without_secrets
from coincide.report.plots import all_plots
from coincide.schema import Result
from coincide.store import write_atomic


def build_report(results: Sequence[Result], folder: Path) -> dict[str, Path]:
    """Write the report of ``results`` into ``folder``; the same results give the same bytes."""
    found = panels([without_secrets(result) for result in results])
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "md": tables.markdown(found),
        "csv": tables.comma_separated(found),
        "tex": tables.latex(found),
        "json": json.dumps(tables.as_json(found), indent=1, ensure_ascii=False) + "\n",
        "html": page(found),
    }
    paths = {}
    for ending, text in texts.items():
        paths[ending] = folder / f"report.{ending}"
        write_atomic(paths[ending], lambda path, t=text: _put(path, t))  # type: ignore[misc]
    return paths


def _put(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def page(found: Sequence[Panel]) -> str:
    """The HTML page. Every text from outside is escaped by Jinja; the policy allows no script."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("coincide.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    sections: list[dict[str, Any]] = []
    for panel, plots in zip(found, all_plots(found), strict=True):
        sections.append(
            {
                "panel": panel,
                "head": tables.header(panel),
                "rows": [(row, tables.cells(panel, row)) for row in panel.rows],
                "notes": tables.notes(panel),
                "plots": {name: Markup(svg) for name, svg in plots.items() if svg},
                "best": _best(panel),
            }
        )
    return environment.get_template("report.html").render(sections=sections, command=command)


def _best(panel: Panel) -> dict[str, float]:
    """Best mean of each column, the full run left out."""
    best: dict[str, float] = {}
    for row in panel.rows:
        for name, value in row.scores.items():
            if row.method != "full":
                best[name] = max(value.mean, best.get(name, value.mean))
    return best


def command(result: Result) -> str:
    """The command that makes ``result`` again."""
    config = result.config
    words = [f"method={result.method}", f"data={result.data}", f"seed={result.seed}"]
    if result.method != "full" and "budget" in config:
        words.insert(2, f"budget={config['budget']}")
    return "python run.py " + " ".join(words)
