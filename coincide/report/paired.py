"""Is one method better than another? A paired bootstrap over samples and seeds.

Each replicate draws the test samples anew, the same ones for every run (so that what is hard for
all cancels), and the seeds of each method anew. Three things keep it honest with two or three
seeds: S drawn seeds spread less than S trained ones, so their deviations are stretched by
sqrt(S / (S - 1)) (Rao and Wu 1988); what seeds differ in by the luck of the samples was counted
with the samples and is taken out of their spread; and the interval is stretched by the ratio of
Student's quantile to the normal one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from coincide.ops.resample import group_units
from coincide.report.statistics import Spread, freedom, half_width, spread, t_quantile

TIMES = 2000
"""Replicates: the ends of a 95 % interval then move by a few per cent of its width."""
OVERALL = ""
"""The name of the mean over benchmarks among the distributions."""
_BLOCK = 4_000_000
"""Counts held at once: 32 MB."""

Verdict = Literal["better", "worse", "indistinguishable"]
Groups = Sequence[Sequence[int]]
"""Per row of the table, the indices of its runs, one for each seed."""


@dataclass(frozen=True)
class Difference:
    """First minus second, its 95 % interval, and what that says of the first."""

    mean: float
    low: float
    high: float
    verdict: Verdict
    seeds: bool
    """False: one of the two has a single seed, so the interval is over samples alone."""
    samples: int
    """Units of samples behind it; 0: from the scores of the seeds alone, without sample files."""

    def turned(self) -> Difference:
        """Second minus first."""
        low, high = -self.high, -self.low
        return replace(self, mean=-self.mean, low=low, high=high, verdict=verdict(low, high))


@dataclass(frozen=True)
class Distribution:
    """Bootstrap replicates of one figure for all rows of a table."""

    drawn: np.ndarray
    """[times, rows]"""
    points: np.ndarray
    """The figure itself, mean over seeds, [rows]"""
    seeds: tuple[Spread, ...]
    """Per row, the part of the variance that is the seeds'."""
    units: int


@dataclass(frozen=True)
class Sampled:
    """One benchmark: what R runs got on the same U units of samples, in additive parts.

    score = sum over strata of (sum of ``num`` / sum of ``den``); ``num`` and ``den`` float [R, U],
    ``strata`` int [U]. A plain mean has one stratum and ``den`` 1; F1 has num 2 TP and den
    2 TP + FP + FN; a unit holds what must be drawn together, e.g. the questions about a picture.
    """

    num: np.ndarray
    den: np.ndarray
    strata: np.ndarray
    unit: np.ndarray | None = None
    """Number of the unit of each column, int [U]: those that have samples in several strata have
    a column in each. None: every column is one."""

    @property
    def units(self) -> int:
        """How many there are to draw from."""
        return self.num.shape[1] if self.unit is None else int(self.unit.max(initial=-1)) + 1

    def scores(self) -> np.ndarray:
        """The score of each run, [R]."""
        return _ratios(self, np.ones((1, self.num.shape[1])))[0]


def resampled_scores(of: Sampled, times: int, seed: int) -> np.ndarray:
    """Scores [times, R] on units drawn with replacement within strata, alike for all R runs.

    Blocked so that memory stays bounded.
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
    """How often each of n is among n drawn with replacement, [times, n]."""
    drawn = rng.integers(n, size=(times, n)) + np.arange(times)[:, None] * n
    return np.bincount(drawn.ravel(), minlength=times * n).reshape(times, n)


def _ratios(of: Sampled, counts: np.ndarray) -> np.ndarray:
    """Scores [times, R] under ``counts`` [times, U]; a stratum without a denominator adds 0."""
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
    """The distributions of each benchmark's score, and under ``OVERALL`` of the mean over them.

    ``full``: the row whose score is the 100 %, drawn anew as well; the overall figure is then Rel.
    (%), over the replicates in which it is above 0 throughout; where these are fewer than 95 %, no
    ratio can be taken and there is no ``OVERALL``. None: it is the plain mean of the scores. The
    same arguments give the same draws.
    """
    seeds = _seed_draws(groups, times, seed)
    runs, points, found = {}, {}, {}
    for i, (name, one) in enumerate(benchmarks.items()):
        runs[name], points[name] = resampled_scores(one, times, seed + 1 + i), one.scores()
        found[name] = _of_rows(runs[name], points[name], groups, seeds, one.units)
    if full is None:
        over = dict.fromkeys(benchmarks, (np.ones((times, 1)), 1.0))
    else:
        over = {n: (d.drawn[:, [full]] / 100, d.points[full] / 100) for n, d in found.items()}
    kept = np.all([whole[:, 0] > 0 for whole, _ in over.values()], axis=0)
    if kept.mean() < 0.95:
        return found
    drawn = np.mean([runs[n][kept] / over[n][0][kept] for n in benchmarks], axis=0)
    point = np.mean([points[n] / over[n][1] for n in benchmarks], axis=0)
    units = sum(one.units for one in benchmarks.values())
    return {**found, OVERALL: _of_rows(drawn, point, groups, seeds[kept], units)}


def _seed_draws(groups: Groups, times: int, seed: int) -> np.ndarray:
    """Deviations [times, R] of the weights of each row's runs from equal ones, seeds drawn anew."""
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
    """From runs to rows: the mean over seeds of ``runs`` [times, R], and the noise of the seeds."""
    drawn, parts = [], []
    for group in map(list, groups):
        mine = spread(points[group].tolist())
        share = _share_of_seeds(runs[:, group], points[group])
        noise = seeds[:, group] @ points[group]
        drawn.append(runs[:, group].mean(axis=1) + np.sqrt(share) * noise)
        known = None if mine.variance is None else share * mine.variance
        parts.append(Spread(known, mine.freedom))
    means = np.array([points[list(group)].mean() for group in groups])
    return Distribution(np.stack(drawn, axis=1), means, tuple(parts), units)


def _share_of_seeds(runs: np.ndarray, points: np.ndarray) -> float:
    """How much of the spread of ``points`` [S] is not the luck that each seed had with the samples.

    That luck is what replicates ``runs`` [times, S] of one seed do not share with another's.
    """
    if len(points) < 2 or not (between := float(np.var(points, ddof=1))):
        return 1.0
    covariance = np.cov(runs.T)
    s = len(points)
    shared = (covariance.sum() - np.trace(covariance)) / (s * (s - 1))
    return float(np.clip(1 - (np.trace(covariance) / s - shared) / between, 0.0, 1.0))


def compare(of: Distribution, first: int, second: int) -> Difference:
    """Row ``first`` minus row ``second``."""
    mean = float(of.points[first] - of.points[second])
    drawn = of.drawn[:, first] - of.drawn[:, second]
    parts = [of.seeds[first], of.seeds[second]]
    low, high = _interval(mean, drawn, parts, of.units)
    known = all(part.variance is not None for part in parts)
    return Difference(mean, low, high, verdict(low, high), known, of.units)


def interval(of: Distribution, row: int) -> tuple[float, float]:
    """The 95 % interval of one row, over samples and seeds."""
    return _interval(float(of.points[row]), of.drawn[:, row], [of.seeds[row]], of.units)


def _interval(
    mean: float, drawn: np.ndarray, seeds: Sequence[Spread], units: int
) -> tuple[float, float]:
    low, high = np.quantile(drawn, [0.025, 0.975])
    rest = float(np.var(drawn)) - sum(part.variance or 0.0 for part in seeds)
    parts = [*seeds, Spread(max(0.0, rest), max(1, units - 1))]
    stretch = t_quantile(freedom(parts)) / t_quantile(float("inf"))
    return float(mean + stretch * (low - mean)), float(mean + stretch * (high - mean))


def welch(first: Sequence[float], second: Sequence[float]) -> Difference | None:
    """The difference from the values of the seeds alone (Welch 1947); None with a single seed."""
    half = half_width([spread(first), spread(second)])
    if half is None:
        return None
    mean = float(np.mean(first) - np.mean(second))
    return Difference(mean, mean - half, mean + half, verdict(mean - half, mean + half), True, 0)


def verdict(low: float, high: float) -> Verdict:
    """What an interval of a difference says of the first."""
    if low > 0:
        return "better"
    return "worse" if high < 0 else "indistinguishable"
