"""Is one method better than another? A paired bootstrap over samples and seeds.

Each replicate resamples the test samples, the same ones for every run (so that what is hard for all
cancels), and the seeds of each method. Three corrections make it valid with two or three seeds: S
resampled seeds vary less than S trained ones, so their deviations are scaled by sqrt(S / (S - 1))
(Rao and Wu 1988); the part of the difference between seeds that comes from the samples is counted
with the samples and removed from the seeds' variance; and the interval is scaled by the ratio of
Student's quantile to the normal one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from coincide.ops.resample import group_units
from coincide.report.statistics import LEVEL, Spread, half_width, variance_of_mean

TIMES = 2000
"""Number of replicates: the ends of a 95 % interval then vary by a few per cent of its width."""
OVERALL = ""
"""Key of the mean over benchmarks among the distributions."""
_BLOCK = 4_000_000
"""Counts held in memory at once: 32 MB."""

Verdict = Literal["better", "worse", "indistinguishable"]
Groups = Sequence[Sequence[int]]
"""Per row of the table, the indices of its runs, one for each seed."""


@dataclass(frozen=True)
class Difference:
    """First minus second, its 95 % interval, and the verdict on the first."""

    mean: float
    low: float
    high: float
    verdict: Verdict
    seeds: bool
    """False: one of the two has a single seed, so the interval covers samples only."""
    samples: int
    """Number of resampling units behind it; 0: computed from the seeds' scores, without sample
    files."""

    def turned(self) -> Difference:
        """The difference second minus first."""
        low, high = -self.high, -self.low
        return replace(self, mean=-self.mean, low=low, high=high, verdict=verdict(low, high))


@dataclass(frozen=True)
class Distribution:
    """Bootstrap replicates of one figure, for all rows of a table."""

    drawn: np.ndarray
    """[times, rows], the figure in each replicate."""
    points: np.ndarray
    """[rows], the figure itself, averaged over seeds."""
    seeds: tuple[Spread, ...]
    """Per row, the part of the variance that comes from the seeds."""
    units: int
    """Number of resampling units."""

    @cached_property
    def by_row(self) -> np.ndarray:
        """[rows, times], ``drawn`` with the replicates of a row beside each other."""
        return np.ascontiguousarray(self.drawn.T)


@dataclass(frozen=True)
class Sampled:
    """One benchmark: the results of R runs on the same U units of samples, as additive parts.

    score = sum over strata of (sum of ``num`` / sum of ``den``); ``num`` and ``den`` float [R, U],
    ``strata`` int [U]. A plain mean has one stratum and ``den`` 1; F1 has num 2 TP and den 2 TP +
    FP + FN; a unit holds samples that are drawn together, e.g. the questions about a picture.
    """

    num: np.ndarray
    den: np.ndarray
    strata: np.ndarray
    unit: np.ndarray | None = None
    """Number of the unit of each column, int [U]: a unit with samples in several strata has a
    column in each. None: every column is a unit."""

    @property
    def units(self) -> int:
        """Number of units."""
        return self.num.shape[1] if self.unit is None else int(self.unit.max(initial=-1)) + 1

    def scores(self) -> np.ndarray:
        """The score of each run, [R]."""
        return _ratios(self, np.ones((1, self.num.shape[1])))[0]

    def influences(self) -> np.ndarray:
        """[R, units], linearised: values whose mean is 0 and whose variance over units, divided by
        their number, is that of the score."""
        columns = np.zeros_like(self.num)
        for stratum in np.unique(self.strata):
            mine = self.strata == stratum
            num, den = self.num[:, mine], self.den[:, mine]
            total = den.sum(axis=1, keepdims=True)
            ratio = num.sum(axis=1, keepdims=True) / total
            columns[:, mine] = (num - ratio * den) / total
        unit = np.arange(columns.shape[1]) if self.unit is None else self.unit
        found = np.zeros((len(columns), self.units))
        np.add.at(found.T, unit, columns.T)
        return found * self.units


def resampled_scores(of: Sampled, times: int, seed: int) -> np.ndarray:
    """Scores [times, R] on units resampled with replacement within strata, the same for all R runs.

    Computed in blocks of bounded memory.
    """
    rng = np.random.default_rng(seed)
    unit = np.arange(of.units) if of.unit is None else of.unit
    _, strata = np.unique(of.strata, return_inverse=True)
    place, group = group_units(unit, strata)
    members = [np.flatnonzero(group == one) for one in np.unique(group)]
    step = max(1, _BLOCK // len(unit))
    found = []
    for start in range(0, times, step):
        counts = np.zeros((min(step, times - start), len(group)))
        for mine in members:
            counts[:, mine] = _drawn(rng, len(counts), len(mine))
        found.append(_ratios(of, counts[:, place]))
    return np.concatenate(found)


def _drawn(rng: np.random.Generator, times: int, n: int) -> np.ndarray:
    """[times, n]: how often each of n is among n draws with replacement."""
    drawn = rng.integers(n, size=(times, n)) + np.arange(times)[:, None] * n
    return np.bincount(drawn.ravel(), minlength=times * n).reshape(times, n)


def _ratios(of: Sampled, counts: np.ndarray) -> np.ndarray:
    """Scores [times, R] with the weights ``counts`` [times, U].

    A stratum with denominator 0 adds 0.
    """
    total = np.zeros((len(counts), len(of.num)))
    for stratum in np.unique(of.strata):
        mine = of.strata == stratum
        shared = of.den[:1] if (of.den == of.den[0]).all() else of.den  # a mean's: one for all runs
        num, den = (counts[:, mine] @ part[:, mine].T for part in (of.num, shared))
        total += np.divide(
            num, den, out=np.zeros_like(num), where=np.broadcast_to(den > 0, num.shape)
        )
    return total


def bootstrap(
    benchmarks: Mapping[str, Sampled],
    groups: Groups,
    full: int | None,
    *,
    times: int = TIMES,
    seed: int = 0,
) -> dict[str, Distribution]:
    """The distributions of each benchmark's score, and of the mean over benchmarks (``OVERALL``).

    ``groups``: runs of each row. ``full``: the row whose score is 100 %, resampled as well; the
    overall figure is then Rel. (%), over the replicates in which the full score is above 0 for
    every benchmark. If these are fewer than 95 %, no ratio can be taken and there is no
    ``OVERALL``. None: the overall figure is the plain mean of the scores. The same arguments give
    the same draws.
    """
    # the same seed draws for all benchmarks, the same samples for all runs of a benchmark
    seeds = _seed_draws(groups, times, seed)
    runs, points, found = {}, {}, {}
    for i, (name, one) in enumerate(benchmarks.items()):
        runs[name], points[name] = resampled_scores(one, times, seed + 1 + i), one.scores()
        found[name] = _of_rows(runs[name], points[name], groups, seeds, one.units)
    # what 100 % is, in every replicate and as it was measured
    if full is None:
        over = dict.fromkeys(benchmarks, (np.ones((times, 1)), 1.0))
    else:
        over = {n: (d.drawn[:, [full]] / 100, d.points[full] / 100) for n, d in found.items()}
    # replicates in which a full-data score is not above 0 have no ratio
    kept = np.all([whole[:, 0] > 0 for whole, _ in over.values()], axis=0)
    if kept.mean() < 0.95:
        return found
    # mean over benchmarks of score / full score, by replicate and run; then from runs to rows
    drawn = np.mean([runs[n][kept] / over[n][0][kept] for n in benchmarks], axis=0)
    point = np.mean([points[n] / over[n][1] for n in benchmarks], axis=0)
    units = sum(one.units for one in benchmarks.values())
    return {**found, OVERALL: _of_rows(drawn, point, groups, seeds[kept], units)}


def _seed_draws(groups: Groups, times: int, seed: int) -> np.ndarray:
    """Deviations [times, R] of the weights of each row's runs from equal weights, with seeds
    resampled.
    """
    rng = np.random.default_rng(seed)
    found = np.zeros((times, sum(len(group) for group in groups)))
    for group in groups:
        s = len(group)
        if s > 1:
            drawn = rng.multinomial(s, np.full(s, 1 / s), size=times)
            found[:, list(group)] = np.sqrt(s / (s - 1)) * (drawn - 1) / s
    return found


def _of_rows(
    runs: np.ndarray, points: np.ndarray, groups: Groups, seeds: np.ndarray, units: int
) -> Distribution:
    """From runs to rows: the mean over seeds of ``runs`` [times, R], with the noise of the seeds
    added.
    """
    drawn, parts = [], []
    for group in map(list, groups):
        mine = variance_of_mean(points[group].tolist())
        share = _share_of_seeds(runs[:, group], points[group])
        noise = seeds[:, group] @ points[group]
        drawn.append(runs[:, group].mean(axis=1) + np.sqrt(share) * noise)
        known = None if mine.variance is None else share * mine.variance
        parts.append(Spread(known, mine.freedom))
    means = np.array([points[list(group)].mean() for group in groups])
    return Distribution(np.stack(drawn, axis=1), means, tuple(parts), units)


def _share_of_seeds(runs: np.ndarray, points: np.ndarray) -> float:
    """The share of the variance of ``points`` [S] that does not come from the samples.

    The samples' part is what replicates ``runs`` [times, S] of different seeds do not have in
    common.
    """
    if len(points) < 2 or not (between := float(np.var(points, ddof=1))):
        return 1.0
    covariance = np.cov(runs.T)
    s = len(points)
    shared = (covariance.sum() - np.trace(covariance)) / (s * (s - 1))
    return float(np.clip(1 - (np.trace(covariance) / s - shared) / between, 0.0, 1.0))


def compare(of: Distribution, first: int, second: int) -> Difference:
    """The difference of row ``first`` minus row ``second``."""
    return compare_to(of, first, [second])[0]


def compare_to(of: Distribution, first: int, others: Sequence[int]) -> list[Difference]:
    """The differences of row ``first`` minus each of ``others``."""
    means = of.points[first] - of.points[list(others)]
    drawn = of.by_row[first] - of.by_row[list(others)]
    parts = [[of.seeds[first], of.seeds[other]] for other in others]
    intervals = _intervals(means, drawn, parts, of.units)
    return [
        Difference(
            float(mean), low, high, verdict(low, high),
            all(part.variance is not None for part in each), of.units,
        )
        for mean, (low, high), each in zip(means, intervals, parts, strict=True)
    ]  # fmt: skip


def interval(of: Distribution, row: int) -> tuple[float, float]:
    """The 95 % interval of one row, over samples and seeds."""
    return _intervals(of.points[[row]], of.by_row[[row]], [[of.seeds[row]]], of.units)[0]


def _intervals(
    means: np.ndarray, drawn: np.ndarray, seeds: Sequence[Sequence[Spread]], units: int
) -> list[tuple[float, float]]:
    """Of each of n figures: ``means`` [n], ``drawn`` [n, times]."""
    ordered = np.sort(drawn, axis=1)
    of_seeds = np.array([[part.variance or 0.0 for part in each] for each in seeds])
    rest = np.maximum(0.0, np.var(drawn, axis=1) - of_seeds.sum(1))
    variances = np.column_stack([of_seeds, rest])
    degrees = np.array([[*(part.freedom for part in each), max(1, units - 1)] for each in seeds])
    stretch = _stretch(variances, degrees)
    lows, highs = (means + stretch * (_quantile(ordered, q) - means) for q in (0.025, 0.975))
    return list(zip(lows.tolist(), highs.tolist(), strict=True))


def _quantile(ordered: np.ndarray, q: float) -> np.ndarray:
    """The ``q`` quantile of each row of ``ordered`` [n, times], ascending, NaN last: the bits of
    ``np.quantile``, NaN where there is one, in half its time for two of them.
    """
    place = q * (ordered.shape[1] - 1)
    low = int(place)
    below, above, share = ordered[:, low], ordered[:, low + 1], place - low
    near = below + (above - below) * share
    found = near if share < 0.5 else above - (above - below) * (1 - share)
    return np.where(np.isnan(ordered[:, -1]), np.nan, found)


def _stretch(variances: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """Student's quantile over the normal one, [n], for sums of independent means with
    ``variances`` and their degrees of freedom, both [n, parts], by Satterthwaite's formula.
    """
    from scipy.special import ndtri, stdtrit

    below = np.divide(variances**2, degrees, where=variances > 0, out=np.zeros_like(variances))
    freedom = np.divide(
        variances.sum(1) ** 2, below.sum(1), where=below.sum(1) > 0, out=np.full(len(below), np.inf)
    )
    known = np.isfinite(freedom)
    upper = (1 + LEVEL) / 2
    return np.where(known, stdtrit(np.where(known, freedom, 1.0), upper) / ndtri(upper), 1.0)


def welch(first: Sequence[float], second: Sequence[float]) -> Difference | None:
    """The difference from the seeds' values alone (Welch 1947); None with a single seed."""
    half = half_width([variance_of_mean(first), variance_of_mean(second)])
    if half is None:
        return None
    mean = float(np.mean(first) - np.mean(second))
    return Difference(mean, mean - half, mean + half, verdict(mean - half, mean + half), True, 0)


def verdict(low: float, high: float) -> Verdict:
    """The verdict on the first, from the interval of first minus second."""
    if low > 0:
        return "better"
    return "worse" if high < 0 else "indistinguishable"
