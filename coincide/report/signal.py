"""How well each benchmark tells methods apart: the spread between them over the noise of a run."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from coincide.report.records import FULL, Note, PanelRow
from coincide.report.statistics import variance_of_mean

LEAST = 3
"""With fewer methods a spread means little."""
FIELD = "least_signal"
"""Field of ``eval``: benchmarks whose signal to noise is lower are left out of Rel. (%)."""


def signal_to_noise(rows: Sequence[PanelRow]) -> dict[int, dict[str, float]]:
    """Number of examples -> benchmark -> standard deviation of the methods' means over that of one
    run over seeds (pooled); of budgets with ``LEAST`` methods of two seeds at least.
    """
    sizes: dict[int, list[PanelRow]] = defaultdict(list)
    for row in rows:
        if row.method != FULL and len(row.runs) > 1:
            sizes[row.examples].append(row)
    return {size: _of(same) for size, same in sizes.items() if len(same) >= LEAST}


def _of(rows: Sequence[PanelRow]) -> dict[str, float]:
    names = [name for name in rows[0].scores if all(name in row.scores for row in rows)]
    return {name: ratio for name in names if (ratio := _ratio(rows, name)) is not None}


def _ratio(rows: Sequence[PanelRow], name: str) -> float | None:
    values = [row.scores[name].values for row in rows]
    freedom = sum(len(mine) - 1 for mine in values)
    squares = [len(v) * (len(v) - 1) * (variance_of_mean(v).variance or 0.0) for v in values]
    noise = math.sqrt(math.fsum(squares) / freedom)
    means = [math.fsum(mine) / len(mine) for mine in values]
    spread = len(means) * (variance_of_mean(means).variance or 0.0)
    return math.sqrt(spread) / noise if noise else None


def signal_notes(rows: Sequence[PanelRow]) -> list[Note]:
    """One note per budget."""
    found = []
    for size, ratios in signal_to_noise(rows).items():
        ordered = sorted(ratios.items(), key=lambda pair: -pair[1])
        said = ", ".join(f"{name} {ratio:.2g}" for name, ratio in ordered)
        text = (
            f"Signal to noise at {size:,} examples (standard deviation of the methods' means over"
        )
        found.append(Note(f"{text} that of one run over seeds): {said}."))
    return found


def left_out(rows: Sequence[PanelRow]) -> dict[str, str]:
    """Benchmark -> why it is not part of Rel. (%): its signal to noise is below
    ``eval.least_signal`` at every budget. Empty unless every run was made with the same limit.
    """
    limits = {_limit(row) for row in rows}
    limit = limits.pop() if len(limits) == 1 else None
    if limit is None:
        return {}
    best: dict[str, float] = {}
    for ratios in signal_to_noise(rows).values():
        for name, ratio in ratios.items():
            best[name] = max(ratio, best.get(name, 0.0))
    why = f"is below eval.{FIELD}={limit:g}, which was set before"
    return {n: f"its signal to noise {r:.2g} {why}" for n, r in best.items() if r < limit}


def _limit(row: PanelRow) -> float | None:
    stated = [run.config.get("eval") for run in row.runs]
    values = {s.get(FIELD) if isinstance(s, Mapping) else None for s in stated}
    value = values.pop() if len(values) == 1 else None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and value is not None else None
