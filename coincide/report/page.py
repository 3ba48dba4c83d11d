"""The report as one HTML page that needs no network and executes no text from outside.

Every text is escaped by Jinja or set as text by the script; the content security policy allows the
one script by its hash. What only the script shows (samples, clusters) is compressed JSON.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from coincide.report.exhibits import Exhibit
from coincide.report.figure import DARK, LIGHT, Series
from coincide.report.multiples import cost_plot, small_multiples
from coincide.report.plots import composition_plot, rel_plot
from coincide.report.records import Panel
from coincide.report.tables import caption, column_notes, missing_notes
from coincide.report.views import (
    composition,
    cost,
    head,
    matrices,
    overlap_matrix,
    published,
    ranked,
    run_view,
)


def page(panels: Sequence[Panel], views: Sequence[Mapping[str, Any]]) -> str:
    """The HTML page of ``panels``, each as its :func:`view`; the same ones give the same bytes."""
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
    """The hash for the content security policy of the text between ``<script>`` and
    ``</script>``.
    """
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def packed(value: Any) -> str:
    """``value`` (JSON) compressed, in base64: characters without a meaning in HTML."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()


def _variables(colours: Sequence[str]) -> str:
    return " ".join(f"--c{i}: {colour};" for i, colour in enumerate(colours))


def view(panel: Panel, exhibit: Exhibit, index: int, places: Series) -> dict[str, Any]:
    """What the page's template shows of ``panel``, the one of number ``index`` (from 1).

    ``places``: the colours of all panels (``coincide.report.figure.series``).
    """
    from markupsafe import Markup

    plots = {
        "rel_plot": rel_plot(panel, places, f"rel{index}"),
        "cost_plot": cost_plot(panel, places, f"cost{index}"),
        "multiples": small_multiples(panel, places, f"multiples{index}"),
        "composition_plot": composition_plot(panel, f"composition{index}"),
    }
    return {
        **{name: Markup(plot) for name, plot in plots.items()},
        "title": panel.title,
        "notes": panel.notes,
        "head": head(panel),
        "rows": ranked(panel, exhibit.pairs),
        "caption": caption(panel),
        "matrices": matrices(panel, exhibit.pairs),
        "pairs": exhibit.pairs,
        "overlap": overlap_matrix(panel, exhibit.overlaps),
        "composition": composition(panel),
        "cost": cost(panel),
        "columns": column_notes(panel),
        "missing": missing_notes(panel),
        "published": published(panel),
        "samples": packed(exhibit.samples) if exhibit.samples else "",
        "clusters": packed(exhibit.clusters) if exhibit.clusters else "",
        "influences": exhibit.influences,
        "runs": [run_view(row, run) for row in panel.rows for run in row.runs],
    }
