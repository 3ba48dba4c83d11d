"""Whether methods rank here as in the published table: Spearman's rho and Kendall's tau.

A small experiment (the demo) may rank methods differently from 7B models on LLaVA-665K; how far it
agrees is measured, not assumed. Repetitions at full scale disagree with that table as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from coincide.report.published import TABLES, published
from coincide.report.records import FULL, Note, PanelRow

AGAINST = ("llava", "llava_1_5_7b")
"""Data and target of the published tables that ranks are compared with."""
LEAST = 4
"""With fewer methods a rank correlation means nothing."""
DRAWS = 10_000


def rank_notes(rows: Sequence[PanelRow]) -> list[Note]:
    """How the order by Rel. (%) agrees with that of each published table, at the table's budget."""
    return [note for name in TABLES for note in _note(name, rows)]


def _note(name: str, rows: Sequence[PanelRow]) -> list[Note]:
    of = TABLES[name]
    if (of.data, of.target) != AGAINST:
        return []
    printed = {row.method: row.rel for row in published(name) if row.method != FULL}
    ours = {m: values for m, values in _measured(rows, of.budget).items() if m in printed}
    if len(ours) < LEAST:
        return []
    theirs = [printed[method] for method in ours]
    rho, tau = correlations([float(np.mean(v)) for v in ours.values()], theirs)
    text = (
        f"Ranks against {of.short} (LLaVA-665K, LLaVA-1.5-7B, {100 * of.budget:g} %), "
        f"{len(ours)} methods: Spearman's rho {rho:+.2f}{_interval(ours, theirs)}, "
        f"Kendall's tau {tau:+.2f}."
    )
    return [Note(text)]


def correlations(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """Spearman's rho and Kendall's tau-b of two lists of numbers; NaN if one is constant."""
    from scipy.stats import kendalltau, spearmanr

    if len(set(ours)) == 1 or len(set(theirs)) == 1:
        return float("nan"), float("nan")
    return float(spearmanr(ours, theirs).statistic), float(kendalltau(ours, theirs).statistic)


def _measured(rows: Sequence[PanelRow], budget: float) -> Mapping[str, tuple[float, ...]]:
    """Method -> Rel. of each seed at ``budget``; of several rows the one with most seeds."""
    found: dict[str, tuple[float, ...]] = {}
    for row in rows:
        if row.method == FULL or row.rel.estimate is None or abs(row.budget - budget) >= 0.005:
            continue
        values = row.rel.estimate.values
        if len(values) > len(found.get(row.method, ())):
            found[row.method] = values
    return dict(sorted(found.items()))


def _interval(ours: Mapping[str, Sequence[float]], theirs: Sequence[float]) -> str:
    """95 % interval of rho when the seeds of each method are resampled, as text.

    Empty with one seed.
    """
    from scipy.stats import rankdata

    if any(len(values) < 2 for values in ours.values()):
        return ""
    dice = np.random.default_rng(0)
    drawn = np.stack(
        [dice.choice(v, (DRAWS, len(v))).mean(1) for v in map(np.array, ours.values())], axis=1
    )
    ranks = rankdata(drawn, axis=1)
    of_table = rankdata(theirs) - (len(theirs) + 1) / 2
    centred = ranks - ranks.mean(1, keepdims=True)
    length = np.linalg.norm(centred, axis=1) * np.linalg.norm(of_table)
    rho = centred @ of_table / np.where(length > 0, length, np.inf)
    low, high = np.quantile(rho, [0.025, 0.975])
    return f" (95 % over seeds {low:+.2f} to {high:+.2f})"
