"""Rel. against budget, and what each subset is made of: inline SVG, the same bytes each time.

Colours are CSS variables (``--c0`` ... of the page), so that a plot follows the light or dark page;
text stays text, and no label is read as mathematics.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from coincide.report.compare import FULL, Panel, Row
from coincide.report.tables import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart by the colour-blind as well; lighter twins on a dark page.
LIGHT = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6b5b00", "#444444")
DARK = ("#4c9fdc", "#ff8a4c", "#2fc79a", "#e59cc4", "#f2b632", "#9ad4f7", "#d9cf5a", "#c3c8cd")
MARKERS, DASHES, HATCHES = "oDs^vPX", ("-", "--", ":", "-."), ("", "////", "....")
SOURCES = 12
"""Most sources told apart in the composition; the smallest beyond them are added up."""
WIDTH = 5.6
"""Inches: ten points stay readable when a phone shrinks the plot to its screen."""
INK, GRID, PAPER = "#010203", "#010204", "#010205"
_CODES = tuple(f"#0201{i:02x}" for i in range(len(LIGHT)))
_CSS = {INK: "currentColor", GRID: "var(--line)", PAPER: "var(--paper)"} | {
    code: f"var(--c{i})" for i, code in enumerate(_CODES)
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
"""Label -> place in the palette: a method keeps its colour in every plot of a page."""


def series(panels: Sequence[Panel]) -> dict[str, int]:
    """The full run first, random second, then by name."""
    methods = {row.label: row.method for panel in panels for row in panel.rows}
    first = {FULL: 0, "random": 1}
    ordered = sorted(methods, key=lambda label: (first.get(methods[label], 2), label))
    return {label: i for i, label in enumerate(ordered)}


def rel_plot(panel: Panel, places: Series, name: str = "rel") -> str:
    """Rel. (%) with intervals: over budget, or one line per method when there is one budget."""
    rows = [row for row in panel.rows if row.rel.estimate and row.method != FULL]
    if not rows:
        return ""
    single = len({row.examples for row in rows}) == 1
    if not single:
        lines = len({row.label for row in rows})
        height = 3.4 + 0.22 * (lines + 1 if lines > 1 else 0)
        return _svg(name, WIDTH, height, lambda figure: _over_budget(figure, rows, places))
    return _svg(name, WIDTH, 1.0 + 0.34 * len(rows), lambda f: _by_method(f, rows, places))


def _over_budget(figure: Figure, rows: Sequence[Row], places: Series) -> None:
    axes = figure.subplots()
    budgets = sorted({100 * row.budget for row in rows})
    logarithmic = budgets[-1] > 5 * budgets[0]
    labels = sorted({row.label for row in rows}, key=places.__getitem__)
    for i, label in enumerate(labels):
        mine = sorted((row for row in rows if row.label == label), key=lambda row: row.budget)
        shift = (i - (len(labels) - 1) / 2) / max(len(labels), 8)
        x = [_dodged(100 * row.budget, shift, budgets, logarithmic) for row in mine]
        _points(axes, x, mine, places[label])
    axes.axhline(100, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=2, label="full data")
    if logarithmic:
        axes.set_xscale("log")
    axes.set(xlabel="budget (% of the examples)", ylabel="Rel. (%)")
    axes.set_xticks(budgets, [f"{budget:.4g}" for budget in budgets])
    axes.minorticks_off()
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    _legend(figure, axes, 2)


def _dodged(budget: float, shift: float, budgets: Sequence[float], logarithmic: bool) -> float:
    """``budget`` a little to the side, so that intervals at one budget do not hide each other."""
    if logarithmic:
        return budget * (budgets[-1] / budgets[0]) ** (0.04 * shift)
    return budget + 0.04 * shift * (budgets[-1] - budgets[0])


def _points(axes: Axes, x: Sequence[float], rows: Sequence[Row], place: int) -> None:
    found = [row.rel.estimate for row in rows if row.rel.estimate]
    color = _CODES[place % len(_CODES)]
    for at, value in zip(x, found, strict=True):
        if value.low is not None and value.high is not None:
            axes.plot([at, at], [value.low, value.high], color=color, linewidth=1.2, alpha=0.75)
    axes.plot(
        x, [value.mean for value in found], color=color, linewidth=1.8,
        marker=MARKERS[place % len(MARKERS)], markersize=5.5,
        linestyle=DASHES[place // len(_CODES) % len(DASHES)], label=_shown(rows[0].label),
    )  # fmt: skip


def _by_method(figure: Figure, rows: Sequence[Row], places: Series) -> None:
    axes = figure.subplots()
    for y, row in enumerate(rows[::-1]):
        value, color = row.rel.estimate, _CODES[places[row.label] % len(_CODES)]
        if value is None:
            continue
        if value.low is not None and value.high is not None:
            axes.plot([value.low, value.high], [y, y], color=color, linewidth=2)
        marker = MARKERS[places[row.label] % len(MARKERS)]
        axes.plot([value.mean], [y], color=color, marker=marker, markersize=7)
        axes.annotate(
            f"{value.mean:.1f}", (value.mean, y), xytext=(0, 6), textcoords="offset points",
            ha="center", fontsize=9, bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.4},
        )  # fmt: skip
    axes.axvline(100, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=2)
    axes.set_yticks(range(len(rows)), [_shown(row.label) for row in rows[::-1]])
    axes.set(ylim=(-0.6, len(rows) - 0.3), xlabel="Rel. (%); dashed: full data")
    axes.margins(x=0.08)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def composition_plot(panel: Panel, name: str = "composition") -> str:
    """Share of each source in each subset, mean over seeds: a stacked bar per row of the table."""
    sources, rest = main_sources(panel)
    if not sources:
        return ""
    lines = -(-(len(sources) + bool(rest)) // _columns(sources))
    height = 0.9 + 0.3 * len(panel.rows) + 0.24 * lines
    return _svg(name, WIDTH, height, lambda figure: _stacked(figure, panel, sources, rest))


def main_sources(panel: Panel) -> tuple[list[str], list[str]]:
    """The largest sources over all subsets, by name, and those that are added up."""
    shares: dict[str, float] = {}
    for row in panel.rows:
        for source, count in row.composition.items():
            shares[source] = shares.get(source, 0.0) + count / max(1, row.examples)
    ordered = sorted(shares, key=lambda source: (-shares[source], source))
    cut = SOURCES if len(ordered) <= SOURCES else SOURCES - 1
    return sorted(ordered[:cut]), ordered[cut:]


def _columns(sources: Sequence[str]) -> int:
    """Columns of the legend for which the names fit."""
    return 3 if max(map(len, sources)) <= 16 else 2


def _stacked(figure: Figure, panel: Panel, sources: Sequence[str], rest: Sequence[str]) -> None:
    axes = figure.subplots()
    rows = panel.rows[::-1]
    left = [0.0] * len(rows)

    def add(members: Sequence[str], label: str, color: str, hatch: str) -> None:
        counts = [sum(row.composition.get(s, 0) for s in members) for row in rows]
        shares = [100 * c / max(1, r.examples) for c, r in zip(counts, rows, strict=True)]
        axes.barh(
            range(len(rows)), shares, left=left, label=label, color=color, hatch=hatch,
            height=0.74, linewidth=0.8, edgecolor=PAPER,
        )  # fmt: skip
        left[:] = [a + b for a, b in zip(left, shares, strict=True)]

    for i, source in enumerate(sources):
        place, turn = i % len(_CODES), i // len(_CODES)
        add([source], _shown(source), _CODES[place], HATCHES[turn])
    if rest:
        add(rest, f"{len(rest)} smaller sources", GRID, "")
    axes.set_yticks(
        range(len(rows)), [f"{_shown(row.label)}, {percent(row.budget)}" for row in rows]
    )
    axes.set(xlabel="share of the subset (%)", xlim=(0, 100), ylim=(-0.6, len(rows) - 0.4))
    axes.tick_params(axis="y", length=0)
    _legend(figure, axes, _columns(sources))


def _legend(figure: Figure, axes: Axes, columns: int) -> None:
    """A legend under the plot of all that was given a label, one with a leading underscore too."""
    handles: list[Any] = [*axes.lines, *axes.containers]
    named = [(h, str(h.get_label())) for h in handles]
    kept = [(h, label) for h, label in named if not re.fullmatch(r"_child\d+", label)]
    figure.legend(
        [h for h, _ in kept], [label for _, label in kept], loc="outside lower left",
        ncols=columns, frameon=False, fontsize=9, columnspacing=1.4, handlelength=2.0,
    )  # fmt: skip


def _shown(label: str) -> str:
    """At most 28 characters of a label, its head and its tail; the table has the whole of it."""
    return label if len(label) <= 28 else f"{label[:13]}…{label[-14:]}"


def _svg(name: str, width: float, height: float, paint: Callable[[Figure], None]) -> str:
    """The figure as an SVG element whose ids begin with ``name``."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        paint(figure)
        out = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    return _inline(out.getvalue())


def _inline(text: str) -> str:
    """Matplotlib's file as an element of a page: no prologue, size, style sheet or shared ids."""
    text = text[text.index("<svg") :]
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1 role="img"', text, count=1)
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r'<g id="[A-Za-z_.]+\d*">', "<g>", text)
    text = text.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, system-ui, sans-serif")
    return re.sub("#0[12][0-9a-f]{4}", lambda match: _CSS.get(match[0], match[0]), text)
