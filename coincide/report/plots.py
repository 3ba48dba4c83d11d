"""Plots of Rel. against budget, and of the composition of each subset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from coincide.report.figure import (
    CODES,
    DASHES,
    GRID,
    HATCHES,
    INK,
    MARKERS,
    PAPER,
    WIDTH,
    Series,
    legend,
    limits,
    short_label,
    svg,
)
from coincide.report.records import FULL, Panel, PanelRow
from coincide.report.tables import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SOURCES = 12
"""Most sources shown in the composition; smaller ones are added up."""


def rel_plot(panel: Panel, places: Series, name: str = "rel") -> str:
    """Rel. (%) with intervals: over budget, or one line per method if there is one budget."""
    rows = [row for row in panel.rows if row.rel.estimate and row.method != FULL]
    if not rows:
        return ""
    single = len({row.examples for row in rows}) == 1
    if not single:
        lines = len({row.label for row in rows})
        height = 3.4 + 0.22 * (lines + 1 if lines > 1 else 0)
        return svg(name, WIDTH, height, lambda figure: _over_budget(figure, rows, places))
    return svg(name, WIDTH, 1.0 + 0.34 * len(rows), lambda f: _by_method(f, rows, places))


def _limits(rows: Sequence[PanelRow]) -> tuple[float, float]:
    return limits([row.rel.estimate for row in rows], [100.0], least=6.0)


def _over_budget(figure: Figure, rows: Sequence[PanelRow], places: Series) -> None:
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
    axes.set(xlabel="budget (% of the examples)", ylabel="Rel. (%)", ylim=_limits(rows))
    axes.set_xticks(budgets, [f"{budget:.4g}" for budget in budgets])
    axes.minorticks_off()
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    legend(figure, axes, 2)


def _dodged(budget: float, shift: float, budgets: Sequence[float], logarithmic: bool) -> float:
    """``budget`` shifted a little, so that intervals at one budget do not overlap."""
    if logarithmic:
        return budget * (budgets[-1] / budgets[0]) ** (0.04 * shift)
    return budget + 0.04 * shift * (budgets[-1] - budgets[0])


def _points(axes: Axes, x: Sequence[float], rows: Sequence[PanelRow], place: int) -> None:
    found = [row.rel.estimate for row in rows if row.rel.estimate]
    color = CODES[place % len(CODES)]
    for at, value in zip(x, found, strict=True):
        if value.low is not None and value.high is not None:
            axes.plot([at, at], [value.low, value.high], color=color, linewidth=1.2, alpha=0.75)
    axes.plot(
        x, [value.mean for value in found], color=color, linewidth=1.8,
        marker=MARKERS[place % len(MARKERS)], markersize=5.5,
        linestyle=DASHES[place // len(CODES) % len(DASHES)], label=short_label(rows[0].label),
    )  # fmt: skip


def _by_method(figure: Figure, rows: Sequence[PanelRow], places: Series) -> None:
    axes = figure.subplots()
    for y, row in enumerate(rows[::-1]):
        value, color = row.rel.estimate, CODES[places[row.label] % len(CODES)]
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
    axes.set_yticks(range(len(rows)), [short_label(row.label) for row in rows[::-1]])
    low, high = _limits(rows)
    axes.set(ylim=(-0.6, len(rows) - 0.3), xlim=(low, high), xlabel="Rel. (%); dashed: full data")
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def composition_plot(panel: Panel, name: str = "composition") -> str:
    """Share of each source in each subset, averaged over seeds: a stacked bar per row of the
    table.
    """
    sources, rest = main_sources(panel)
    if not sources:
        return ""
    lines = -(-(len(sources) + bool(rest)) // _columns(sources))
    height = 0.9 + 0.3 * len(panel.rows) + 0.24 * lines
    return svg(name, WIDTH, height, lambda figure: _stacked(figure, panel, sources, rest))


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
    """Number of columns of the legend."""
    return 3 if max(map(len, sources)) <= 16 else 2


def _stacked(figure: Figure, panel: Panel, sources: Sequence[str], rest: Sequence[str]) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    axes = figure.subplots()
    rows = panel.rows[::-1]
    low = np.arange(len(rows)) - 0.37
    left = np.zeros(len(rows))

    def add(members: Sequence[str], label: str, color: str, hatch: str) -> None:
        counts = [sum(row.composition.get(s, 0) for s in members) for row in rows]
        right = left + [100 * c / max(1, r.examples) for c, r in zip(counts, rows, strict=True)]
        corners = [(left, low), (right, low), (right, low + 0.74), (left, low + 0.74)]
        bars = Path.make_compound_path_from_polys(np.stack([np.stack(c, 1) for c in corners], 1))
        axes.add_artist(  # one for all rows: hundreds of rectangles take seconds to draw
            PathPatch(bars, label=label, facecolor=color, hatch=hatch, linewidth=0.8,
                      edgecolor=PAPER)
        )  # fmt: skip
        left[:] = right

    for i, source in enumerate(sources):
        place, turn = i % len(CODES), i // len(CODES)
        add([source], short_label(source), CODES[place], HATCHES[turn])
    if rest:
        add(rest, f"{len(rest)} smaller sources", GRID, "")
    axes.set_yticks(
        range(len(rows)), [f"{short_label(row.label)}, {percent(row.budget)}" for row in rows]
    )
    axes.set(xlabel="share of the subset (%)", xlim=(0, 100), ylim=(-0.6, len(rows) - 0.4))
    axes.tick_params(axis="y", length=0)
    legend(figure, axes, _columns(sources))
