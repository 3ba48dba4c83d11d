"""Common to all plots of the page: palette, style, and figures as inline SVG.

Colours are CSS variables (``--c0`` ... of the page), so that a plot follows the light or dark page;
text stays text, and no label is parsed as mathematics. The same data give the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from coincide.report.records import FULL, Panel
from coincide.report.statistics import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart by the colour-blind as well; lighter twins on a dark page.
LIGHT = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6b5b00", "#444444")
DARK = ("#4c9fdc", "#ff8a4c", "#2fc79a", "#e59cc4", "#f2b632", "#9ad4f7", "#d9cf5a", "#c3c8cd")
MARKERS, DASHES, HATCHES = "oDs^vPX", ("-", "--", ":", "-."), ("", "////", "....")
WIDTH = 5.6
"""Inches; with this width 10-point text stays readable on a phone."""
INK, GRID, PAPER = "#010203", "#010204", "#010205"
CODES = tuple(f"#0201{i:02x}" for i in range(len(LIGHT)))
_CSS = {INK: "currentColor", GRID: "var(--line)", PAPER: "var(--paper)"} | {
    code: f"var(--c{i})" for i, code in enumerate(CODES)
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.7,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color"), INK),
    "ytick.color": INK,
}

Series = Mapping[str, int]
"""Label -> index in the palette: a method has the same colour in every plot of a page."""


def series(panels: Sequence[Panel]) -> dict[str, int]:
    """The full run first, random second, then by name, those that see target rows last."""
    first = {FULL: 0, "random": 1}
    group = {
        row.label: 3 if row.target_aware else first.get(row.method, 2)
        for panel in panels
        for row in panel.rows
    }
    ordered = sorted(group, key=lambda label: (group[label], label))
    return {label: i for i, label in enumerate(ordered)}


def legend(figure: Figure, axes: Axes, columns: int) -> None:
    """Add a legend below the plot, including labels with a leading underscore."""
    handles: list[Any] = [*axes.lines, *axes.patches]
    named = {str(h.get_label()): h for h in handles[::-1]}
    kept = [(h, label) for label, h in named.items() if not re.fullmatch(r"_child\d+", label)]
    kept.reverse()
    figure.legend(
        [h for h, _ in kept], [label for _, label in kept], loc="outside lower left",
        ncols=columns, frameon=False, fontsize=9, columnspacing=1.4, handlelength=2.0,
    )  # fmt: skip


def limits(
    values: Sequence[Estimate | None], also: Sequence[float] = (), least: float = 0.0
) -> tuple[float, float]:
    """Limits of an axis: all means and ``also``, and intervals as long as the means stay
    distinguishable.

    With two seeds an interval can be so wide that, shown whole, it would hide every difference.
    ``least``: minimum range on either side.
    """
    found = [value for value in values if value is not None]
    means = [*also, *(value.mean for value in found)]
    extent = max(means) - min(means)
    reach = max(least, 0.8 * extent)
    low = max(min([*means, *(v.low for v in found if v.low is not None)]), min(means) - reach)
    high = min(max([*means, *(v.high for v in found if v.high is not None)]), max(means) + reach)
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def short_label(label: str) -> str:
    """At most 28 characters of a label, its beginning and end; the table has all of it."""
    return label if len(label) <= 28 else f"{label[:13]}…{label[-14:]}"


def svg(name: str, width: float, height: float, paint: Callable[[Figure], None]) -> str:
    """The figure as an SVG element whose ids begin with ``name``."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        paint(figure)
        if (engine := figure.get_layout_engine()) is not None:
            engine.execute(figure)  # savefig would draw all of it for that, and then again
            figure.set_layout_engine(None)
        out = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    return _inline(out.getvalue())


def _inline(text: str) -> str:
    """Matplotlib's SVG as an element of a page: without prologue, size, style sheet or shared
    ids.
    """
    text = text[text.index("<svg") :]
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1 role="img"', text, count=1)
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r'<g id="[A-Za-z_.]+\d*">', "<g>", text)
    text = text.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, system-ui, sans-serif")
    return re.sub("#0[12][0-9a-f]{4}", lambda match: _CSS.get(match[0], match[0]), text)
