"""Rel. against budget, and what each subset is made of: SVG, the same bytes each time."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from coincide.report.compare import Panel, Row

# Okabe and Ito's palette, told apart by the colour-blind as well.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
STYLE = {
    "svg.hashsalt": "coincide",
    "svg.fonttype": "path",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
}


def rel_against_budget(panel: Panel) -> str:
    """Rel. (%) over budget, a line per method, with its interval; empty without Rel."""
    lines: dict[str, list[Row]] = {}
    for row in panel.rows:
        if row.rel.estimate is not None:
            lines.setdefault(row.label, []).append(row)
    if not lines:
        return ""

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        for i, (label, rows) in enumerate(sorted(lines.items())):
            rows = sorted(rows, key=lambda row: row.budget)
            found = [row.rel.estimate for row in rows if row.rel.estimate]
            error = [value.half_width or 0.0 for value in found]
            axes.errorbar(
                [100 * row.budget for row in rows], [value.mean for value in found],
                yerr=error if any(error) else None, marker="o", capsize=3, linewidth=1.6,
                color=PALETTE[i % len(PALETTE)], linestyle=("-", "--", ":")[i // len(PALETTE) % 3],
                label=label,
            )  # fmt: skip
        axes.axhline(100, color="#888888", linewidth=0.8, zorder=0)
        axes.set(xlabel="budget (% of the examples)", ylabel="Rel. (%)", xscale="log")
        ticks = sorted({round(100 * row.budget, 4) for rows in lines.values() for row in rows})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.grid(axis="y", color="#e5e5e5")
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))

    return _svg(7.2, 3.8, paint)


def composition(panel: Panel) -> str:
    """Share of each source in each subset: a stacked bar per row of the table."""
    rows = list(panel.rows)[::-1]
    sources = sorted({source for row in rows for source in row.runs[0].composition})
    if not sources:
        return ""

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        left = [0.0] * len(rows)
        for i, source in enumerate(sources):
            shares = [
                100 * row.runs[0].composition.get(source, 0) / max(1, row.examples) for row in rows
            ]
            hatch = ("", "//", "..")[i // len(PALETTE) % 3]
            axes.barh(
                range(len(rows)), shares, left=left, label=source, height=0.72,
                color=PALETTE[i % len(PALETTE)], hatch=hatch, edgecolor="white", linewidth=0.5,
            )  # fmt: skip
            left = [a + b for a, b in zip(left, shares, strict=True)]
        axes.set_yticks(range(len(rows)), [f"{row.label}, {100 * row.budget:.3g}%" for row in rows])
        axes.set(xlabel="share of the subset (%)", xlim=(0, 100))
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9)

    return _svg(8.6, max(2.6, 0.9 + 0.34 * max(len(rows), 0.62 * len(sources))), paint)


def _svg(width: float, height: float, paint: Any) -> str:
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        paint(figure)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def all_plots(panels: Sequence[Panel]) -> list[dict[str, str]]:
    """The plots of each panel by name."""
    return [
        {"rel_against_budget": rel_against_budget(panel), "composition": composition(panel)}
        for panel in panels
    ]
