"""Where the seed noise of a panel comes from, by runs that were trained several times each
(``experiment=lab_noise``), and what a difference of a given size needs.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from coincide.ledger.evidence import ArtifactShelf
from coincide.ops.variance import NoiseParts, nested_parts, question_variance
from coincide.report.pairs import shared_samples
from coincide.report.records import FULL, Note, Panel, PanelRow
from coincide.report.statistics import power_of, seeds_for

NESTED = "train.seed"
"""The field in which trainings of one selection differ; ``seed`` is that of the selection then."""
SIZES = (1.0, 2.0, 5.0)
"""Differences, in points of Rel., of which a report says what they need."""


@dataclass(frozen=True)
class Noise:
    """The noise of one setting at one budget."""

    label: str
    examples: int
    selections: int
    orders: int
    of: str
    """The figure: ``Rel. (%)``, or ``mean score (%)`` where there is no full-data run."""
    parts: NoiseParts
    seconds: float | None
    """Of one training with its evaluation."""
    evaluation: float | None
    """Of these, for the evaluation."""
    why: str = ""
    """Why the questions' part is not known."""

    def record(self) -> dict[str, Any]:
        """As JSON, for ``report.json``."""
        return {**vars(self), "parts": vars(self.parts)}


def noise_from(record: Mapping[str, Any]) -> Noise:
    """What :meth:`Noise.record` wrote."""
    return Noise(**{**record, "parts": NoiseParts(**record["parts"])})


def decompose(panel: Panel, shelf: ArtifactShelf) -> list[Noise]:
    """The noise of each setting of ``panel`` that has nested runs: two selections at least, each
    trained under the same two values of ``NESTED`` at least.
    """
    groups: dict[str, list[PanelRow]] = defaultdict(list)
    for row in panel.rows:
        if row.method != FULL and row.setting.get(NESTED) is not None:
            rest = {k: v for k, v in row.setting.items() if k != NESTED}
            key = json.dumps([row.method, row.variant, row.reference, row.examples, rest])
            groups[key].append(row)
    found = (_noise(panel, rows, shelf) for rows in groups.values())
    return [noise for noise in found if noise is not None]


def _noise(panel: Panel, rows: Sequence[PanelRow], shelf: ArtifactShelf) -> Noise | None:
    seeds = sorted(set.intersection(*(set(row.seeds) for row in rows)))
    if len(rows) < 2 or len(seeds) < 2:
        return None
    grid = _Grid(tuple(rows), tuple(seeds))
    weights = grid.weights(panel)
    figures = grid.figures(weights)
    own, asked, why = grid.questions(weights, shelf)
    parts = nested_parts(figures, own, asked)
    run = rows[0].seconds
    known = "train" in run and "evaluate" in run
    relative = all(row.rel.columns for row in rows)
    return Noise(
        rows[0].method, rows[0].examples, len(seeds), len(rows),
        "Rel. (%)" if relative else "mean score (%)", parts,
        run["train"] + run["evaluate"] if known else None,
        run["evaluate"] if known else None, why,
    )  # fmt: skip


@dataclass(frozen=True)
class _Grid:
    """Runs by selection (of ``seeds``) and order (of ``rows``)."""

    rows: tuple[PanelRow, ...]
    seeds: tuple[int, ...]
    runs: list[tuple[PanelRow, int]] = field(init=False)
    """Row and place of each run in it, selection by selection."""

    def __post_init__(self) -> None:
        runs = [(row, row.seeds.index(seed)) for seed in self.seeds for row in self.rows]
        object.__setattr__(self, "runs", runs)

    def weights(self, panel: Panel) -> dict[str, float]:
        """Benchmark -> its weight in the figure: 100 / full score over the columns of Rel.; without
        a full-data run 100 over all."""
        columns = self.rows[0].rel.columns
        full = next((r for r in panel.rows if r.method == FULL and r.rel.columns == columns), None)
        if not columns or full is None:
            columns = tuple(
                c.name for c in panel.columns if all(c.name in row.scores for row in self.rows)
            )
            return {name: 100 / len(columns) for name in columns}
        return {name: 100 / full.scores[name].mean / len(columns) for name in columns}

    def figures(self, weights: Mapping[str, float]) -> np.ndarray:
        """[selections, orders]."""
        of_runs = [
            sum(weight * row.scores[name].values[at] for name, weight in weights.items())
            for row, at in self.runs
        ]
        return np.array(of_runs).reshape(len(self.seeds), len(self.rows))

    def questions(
        self, weights: Mapping[str, float], shelf: ArtifactShelf
    ) -> tuple[np.ndarray | None, int | None, str]:
        """The questions' variance of each difference between two runs, and how many were asked; or
        why that is not known."""
        total, asked = np.zeros((len(self.runs), len(self.runs))), 0
        for name, weight in weights.items():
            files = [shelf.samples(row.runs[at], name) for row, at in self.runs]
            numbers = [file.numbers for file in files if file is not None]
            sampled = shared_samples(numbers) if len(numbers) == len(files) else None
            if sampled is None:
                return None, None, f"the samples of {name} are not in this store"
            total += weight**2 * question_variance(sampled.influences())
            asked += sampled.units
        return total, asked, ""


def noise_of(found: Sequence[Noise]) -> list[Note]:
    """The parts of the noise, and what differences need, as notes."""
    return [Note(text) for noise in found for text in (_parts_text(noise), _needs_text(noise))]


def _parts_text(noise: Noise) -> str:
    whole = noise.parts.variance()
    shares = {"which rows are selected": noise.parts.selection, "order and initial weights":
              noise.parts.order}  # fmt: skip
    if noise.parts.questions is not None:
        shares[f"the {noise.parts.asked:,} questions"] = noise.parts.questions
    said = ", ".join(
        f"{name} {100 * value / whole if whole else 0:.0f} %" for name, value in shares.items()
    )
    rest = "" if not noise.why else f" Questions are part of both: {noise.why}."
    return (
        f"Where noise comes from ({noise.label}, {noise.examples:,} examples; {noise.selections} "
        f"selections, each trained {noise.orders} times): {noise.of} of one run has a standard "
        f"deviation of {noise.parts.deviation():.2g} points. Of its variance, {said}.{rest}"
    )


def _needs_text(noise: Noise) -> str:
    needs = []
    for size in SIZES:
        seeds = seeds_for(size, noise.parts.deviation())
        more = ""
        if noise.parts.asked and noise.parts.questions:
            fewer = seeds_for(size, noise.parts.deviation(2 * noise.parts.asked))
            more = f" ({fewer} with twice the questions)"
        needs.append(f"{size:g} point{'s' if size != 1 else ''}: {seeds} seeds{more}")
    return (
        "To see a difference between two methods in four of five cases (two-sided, 5 %, ten "
        f"methods): {'; '.join(needs)}. {better_buy(noise)}"
    ).strip()


def better_buy(noise: Noise) -> str:
    """Whether time is better spent on seeds or on questions; empty where that is not known."""
    parts = noise.parts
    if noise.seconds is None or noise.evaluation is None or not parts.asked:
        return ""
    # the same time: twice the seeds, or so many questions that a run takes twice as long
    times = 1 + noise.seconds / noise.evaluation
    seeds = parts.variance() / 2
    questions = parts.variance(round(parts.asked * times))
    best = "seeds" if seeds <= questions else "questions"
    return (
        f"Buy {best}: for twice the time, twice the seeds leave 50 % of the variance of a mean, "
        f"{times:.1f} times the questions {100 * questions / parts.variance():.0f} %."
    )


def chance_to_see(
    noise: Noise, size: float, *, methods: int, seeds: int, asked: int | None = None
) -> float:
    """Chance that a difference of ``size`` points between two of ``methods`` is seen, with
    ``asked`` questions (None: as many as were)."""
    return power_of(size, noise.parts.deviation(asked), methods=methods, seeds=seeds)
