"""Small multiples, one plot per benchmark; and Rel. against cost, with the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from coincide.report.cost import pareto_front
from coincide.report.figure import (
    CODES,
    DASHES,
    GRID,
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

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROW = 0.2
"""Inches per method in a plot with one budget."""


def small_multiples(panel: Panel, places: Series, name: str) -> str:
    """Score on each benchmark, with intervals over seeds; the full run is a dashed line."""
    columns = [c.name for c in panel.columns if any(c.name in row.scores for row in panel.rows)]
    rows = [row for row in panel.rows if row.method != FULL]
    if not columns or not rows:
        return ""
    single = len({row.examples for row in rows}) == 1
    across = 2 if single else 3
    down = -(-len(columns) // across)
    lines = len({row.label for row in rows})
    each = 0.7 + ROW * len(rows) if single else 1.7
    height = down * each + (0 if single else 0.3 + 0.12 * lines)
    return svg(
        name, 1.6 * WIDTH, height, lambda f: _grid(f, panel, rows, columns, places, across, single)
    )


def _grid(
    figure: Figure, panel: Panel, rows: Sequence[PanelRow], columns: Sequence[str], places: Series,
    across: int, single: bool,
) -> None:  # fmt: skip
    down = -(-len(columns) // across)
    grid = figure.subplots(down, across, squeeze=False, sharey=single)
    for i, axes in enumerate(grid.flat):
        if i >= len(columns):
            axes.set_visible(False)
            continue
        name = columns[i]
        _whole(axes, panel, name, upright=single)
        whole = [r.scores[name].mean for r in panel.rows if r.method == FULL and name in r.scores]
        found = [row.scores.get(name) for row in rows]
        if single:
            axes.set_xlim(limits(found, whole, least=_error(rows, name)))
        axes.set_title(short_label(name), fontsize=10, loc="left", fontweight="bold")
        axes.grid(axis="x" if single else "y", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8.5)
        (_by_row if single else _by_budget)(axes, rows, name, places)
    if not single:
        legend(figure, grid.flat[0], 3)


def _error(rows: Sequence[PanelRow], name: str) -> float:
    """Twice the largest standard error over samples: smaller differences mean nothing."""
    return 2 * max((row.stderr.get(name, 0.0) for row in rows), default=0.0)


def _whole(axes: Axes, panel: Panel, name: str, *, upright: bool) -> None:
    for row in panel.rows:
        if row.method == FULL and name in row.scores:
            draw = axes.axvline if upright else axes.axhline
            style = (0, (4, 3))
            draw(row.scores[name].mean, color=INK, linewidth=1, linestyle=style, label="full data")
            return


def _by_row(axes: Axes, rows: Sequence[PanelRow], name: str, places: Series) -> None:
    for y, row in enumerate(rows[::-1]):
        value, place = row.scores.get(name), places[row.label]
        if value is None:
            axes.annotate(
                "n/a", (0.02, y), xycoords=("axes fraction", "data"), fontsize=8, va="center"
            )
            continue
        if value.low is not None and value.high is not None:
            axes.plot([value.low, value.high], [y, y], color=CODES[place % len(CODES)], linewidth=2)
        axes.plot(
            [value.mean], [y], color=CODES[place % len(CODES)], markersize=5.5,
            marker=MARKERS[place % len(MARKERS)],
        )  # fmt: skip
    axes.set_yticks(range(len(rows)), [short_label(row.label) for row in rows[::-1]])
    axes.set_ylim(-0.7, len(rows) - 0.3)


def _by_budget(axes: Axes, rows: Sequence[PanelRow], name: str, places: Series) -> None:
    budgets = sorted({100 * row.budget for row in rows})
    for label in sorted({row.label for row in rows}, key=places.__getitem__):
        mine = sorted(
            (row for row in rows if row.label == label and name in row.scores),
            key=lambda row: row.budget,
        )
        place = places[label]
        axes.plot(
            [100 * row.budget for row in mine], [row.scores[name].mean for row in mine],
            color=CODES[place % len(CODES)], linewidth=1.3, markersize=3.8,
            label=short_label(label), marker=MARKERS[place % len(MARKERS)],
            linestyle=DASHES[place // len(CODES) % len(DASHES)],
        )  # fmt: skip
    if budgets[-1] > 5 * budgets[0]:
        axes.set_xscale("log")
    axes.set_xticks(budgets, [f"{budget:.4g}%" for budget in budgets])
    axes.minorticks_off()


def cost_plot(panel: Panel, places: Series, name: str) -> str:
    """Rel. (%) over total time, with artifacts charged in full and divided among the runs that
    share them.
    """
    rows = [r for r in panel.rows if r.rel.estimate and r.charge.total(shared=False, gpu=False)]
    if len(rows) < 2:
        return ""
    gpu = all(row.charge.gpu_whole for row in rows)
    lines = len({row.label for row in rows})
    height = 3.3 + 0.11 * lines
    return svg(name, 1.6 * WIDTH, height, lambda f: _scatters(f, rows, places, gpu))


def _scatters(figure: Figure, rows: Sequence[PanelRow], places: Series, gpu: bool) -> None:
    ways = [s for s in (False, True) if all(r.charge.total(shared=s, gpu=gpu) for r in rows)]
    side_by_side = figure.subplots(1, len(ways), sharey=True, squeeze=False)[0]
    for axes, shared in zip(side_by_side, ways, strict=True):
        seconds = [row.charge.total(shared=shared, gpu=gpu) or 0.0 for row in rows]
        per, unit = _unit(max(seconds))
        x = [value / per for value in seconds]
        y = [row.rel.estimate.mean for row in rows if row.rel.estimate]
        front = pareto_front(list(zip(x, y, strict=True)))
        axes.plot(
            [x[i] for i in front], [y[i] for i in front], color=INK, linewidth=1.1, zorder=1,
            alpha=0.6, drawstyle="steps-post", label="Pareto front",
        )  # fmt: skip
        for i, row in sorted(enumerate(rows), key=lambda pair: places[pair[1].label]):
            _point(axes, x[i], row, places, on_front=i in front)
        axes.set_xscale("log")
        kind = "GPU time" if gpu else "wall-clock time"
        axes.set(xlabel=f"{kind} ({unit})")
        title = "shared parts divided" if shared else "each charged whole"
        axes.set_title(title, fontsize=10, loc="left", fontweight="bold")
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        _plain_ticks(axes, x)
    side_by_side[0].set(
        ylabel="Rel. (%)", ylim=limits([row.rel.estimate for row in rows], [100.0], least=6.0)
    )
    legend(figure, side_by_side[0], 3)


def _point(axes: Axes, x: float, row: PanelRow, places: Series, *, on_front: bool) -> None:
    value, place = row.rel.estimate, places[row.label]
    if value is None:
        return
    color = CODES[place % len(CODES)]
    if value.low is not None and value.high is not None:
        axes.plot([x, x], [value.low, value.high], color=color, linewidth=1, alpha=0.6)
    axes.plot(
        [x], [value.mean], color=color, marker=MARKERS[place % len(MARKERS)], linestyle="none",
        markersize=6.5, markeredgewidth=1.3, markerfacecolor=color if on_front else PAPER,
        label=short_label(row.label),
    )  # fmt: skip


def _unit(largest: float) -> tuple[float, str]:
    if largest < 600:
        return 1.0, "seconds"
    return (60.0, "minutes") if largest < 3 * 3600 else (3600.0, "hours")


def _plain_ticks(axes: Axes, x: Sequence[float]) -> None:
    """Ticks at 1, 2 and 5 times powers of ten, so that a range within a decade has labels as
    well.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    wide = max(x) > 50 * max(min(x), 1e-9)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
