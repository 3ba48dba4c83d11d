"""Seed noise, and the smallest difference between two methods that this number of seeds can
detect.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain

from coincide.report.records import FULL, Note, PanelRow
from coincide.report.statistics import t_quantile, variance_of_mean

LEAST = 3
"""With fewer rows the pooled deviation means little."""


def noise_notes(rows: Sequence[PanelRow]) -> list[Note]:
    """One note per budget that has at least three rows with several seeds each.

    The standard deviation s of Rel. over seeds is pooled over the rows. Two means of n seeds differ
    significantly (two-sided, 5 %) from t s sqrt(2 / n) on: Fisher's least significant difference.
    """
    by_size: dict[int, list[tuple[float, ...]]] = defaultdict(list)
    for row in rows:
        if row.method != FULL and row.rel.estimate and len(row.rel.estimate.values) > 1:
            by_size[row.examples].append(row.rel.estimate.values)
    notes = [_note(size, runs) for size, runs in by_size.items() if len(runs) >= LEAST]
    return [*notes, *_on_common_numbers(rows)]


def _on_common_numbers(rows: Sequence[PanelRow]) -> list[Note]:
    """What it brings that runs of one seed share order and initial weights (``train.order``)."""
    by_size: dict[int, list[PanelRow]] = defaultdict(list)
    for row in rows:
        ordered = row.setting.get("train.order") == "rows" and row.setting.get("train.seed") is None
        if ordered and row.method != FULL and row.rel.estimate and len(row.runs) > 2:
            by_size[row.examples].append(row)
    found = []
    for size, same in by_size.items():
        runs = [row.rel.estimate.values for row in same if row.rel.estimate]
        if len(same) >= LEAST and len({tuple(row.seeds) for row in same}) == 1:
            found.append(_common(size, runs))
    return found


def _common(size: int, runs: Sequence[tuple[float, ...]]) -> Note:
    found = shared_share(runs)
    scatter = math.sqrt(max(0.0, 1 - found))
    return Note(
        f"Arms of one seed at {size:,} examples share the order of the rows that they share, and "
        f"initial weights: deviations of their Rel. correlate by {found:+.2f} (over "
        f"{len(runs[0])} seeds and {len(runs)} rows), so a difference within seeds scatters "
        f"{scatter:.2f} times as much as one between unrelated runs."
    )


def shared_share(runs: Sequence[Sequence[float]]) -> float:
    """Correlation of the deviations of two rows' runs of one seed from their rows' means, pooled
    over all pairs; ``runs``: the same seeds of each row."""
    seeds, rows = len(runs[0]), len(runs)
    means = [math.fsum(values) / seeds for values in runs]
    apart = [[v - mean for v in values] for values, mean in zip(runs, means, strict=True)]
    own = math.fsum(v * v for values in apart for v in values)
    of_seeds = [math.fsum(values[s] for values in apart) for s in range(seeds)]
    both = math.fsum(total * total for total in of_seeds) - own
    return both / (own * (rows - 1)) if own else 0.0


def least_difference(runs: Sequence[Sequence[float]]) -> tuple[float, float, int]:
    """Pooled standard deviation over seeds, least significant difference, and n (the fewest
    seeds).
    """
    squares = [len(v) * (len(v) - 1) * (variance_of_mean(v).variance or 0.0) for v in runs]
    freedom = sum(len(v) - 1 for v in runs)
    deviation = math.sqrt(math.fsum(squares) / freedom)
    seeds = min(map(len, runs))
    return deviation, t_quantile(freedom) * deviation * math.sqrt(2 / seeds), seeds


def _note(size: int, runs: Sequence[tuple[float, ...]]) -> Note:
    deviation, least, seeds = least_difference(runs)
    apart = max(chain.from_iterable(runs)) - min(chain.from_iterable(runs))
    return Note(
        f"Seed noise at {size:,} examples: Rel. of one run has a standard deviation of "
        f"{deviation:.2g} points over seeds (pooled over {len(runs)} rows; all runs lie within "
        f"{apart:.3g}). {seeds} seeds each tell two rows apart from {least:.2g} points on (95 %)."
    )
