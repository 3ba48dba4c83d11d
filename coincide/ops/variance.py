"""Where the noise of a run comes from: the rows that were selected, the order in which they were
learnt, the questions that were asked.

Runs are nested: A selections, each trained B times in other orders from other initial weights, all
asked the same questions. With y the figure of a run and x its value on each question,

    y = figure + selection + order(selection) + mean over questions of (the run's own part of x)

What the questions have in common for all runs cancels in a difference between two of them and is no
noise of it; what is left is half the variance, over questions, of the difference between two runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class NoiseParts:
    """Variances of one run's figure, in its unit squared. Estimates below 0 are 0."""

    selection: float
    order: float
    questions: float | None
    """With ``asked`` questions; None: not known, it is part of the two others then."""
    asked: int | None = None

    def variance(self, asked: int | None = None) -> float:
        """Of one run's figure with ``asked`` questions (None: as many as were)."""
        share = 1.0 if asked is None or self.asked is None else self.asked / asked
        return self.selection + self.order + (self.questions or 0.0) * share

    def deviation(self, asked: int | None = None) -> float:
        """The root of :meth:`variance`."""
        return math.sqrt(self.variance(asked))


def nested_parts(
    figures: NDArray[np.float64], own: NDArray[np.float64] | None, asked: int | None = None
) -> NoiseParts:
    """The parts of the noise, from the figures [A, B] of B trainings of each of A selections.

    ``own`` [A * B, A * B]: for each pair of runs the variance of the difference between their
    figures that comes from the questions; None: not known. A and B are 2 at least.
    """
    selections, orders = figures.shape
    within = float(figures.var(axis=1, ddof=1).mean())
    between = float(figures.mean(axis=1).var(ddof=1))
    if own is None:
        return NoiseParts(max(0.0, between - within / orders), within, None)
    group = np.repeat(np.arange(selections), orders)
    pairs = np.triu(np.ones_like(own, dtype=bool), k=1)
    alike = group[:, None] == group
    of_order = float(own[pairs & alike].mean()) / 2
    of_both = float(own[pairs & ~alike].mean()) / 2
    of_selection = max(0.0, of_both - of_order)
    return NoiseParts(
        max(0.0, between - within / orders - of_selection),
        max(0.0, within - of_order),
        max(of_both, of_order),
        asked,
    )


def question_variance(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """[R, R]: the variance of the mean over U questions of the difference between two runs, from
    their ``values`` [R, U]."""
    units = values.shape[1]
    covariance = np.cov(values) / units
    spread = np.diag(covariance)
    return np.maximum(0.0, spread[:, None] + spread - 2 * covariance)
