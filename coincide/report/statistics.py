"""Means, intervals and relative performance of scores.

A single seed has no interval: ``None``, never 0. Seed noise in this field exceeds many reported
gains (two identical LLaVA runs differ by about 20 points of MME), so an unknown interval is shown
as missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

LEVEL = 0.95
Scores = Mapping[str, float]
"""Benchmark -> score of one run."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its two-sided 95 % t interval (None with a single seed)."""

    mean: float
    low: float | None
    high: float | None
    values: tuple[float, ...]
    """One value per seed, in seed order."""

    @property
    def half_width(self) -> float | None:
        """Half the length of the interval, in units of the mean."""
        return None if self.high is None else self.high - self.mean


@dataclass(frozen=True)
class Relative:
    """Rel. (%): the mean over ``columns`` of 100 x score / full-data score."""

    estimate: Estimate | None
    """None: missing, with the reason in ``why``."""
    columns: tuple[str, ...] = ()
    """The stated benchmarks: the mean is over all of them, or there is no estimate."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Benchmark -> why it is not among the stated ones."""
    why: str = ""
    no_interval: str = ""
    """Why an estimate has no interval."""


NO_REL = Relative(None)


@dataclass(frozen=True)
class Spread:
    """The variance of a mean over seeds (None with one seed) and its degrees of freedom."""

    variance: float | None
    freedom: int


def estimate(values: Sequence[float], level: float = LEVEL) -> Estimate:
    """The mean of ``values`` and mean ± t(n-1) s / sqrt(n), with s the sample standard
    deviation.
    """
    mean = math.fsum(values) / len(values)
    half = half_width([variance_of_mean(values)], level)
    if half is None:
        return Estimate(mean, None, None, tuple(values))
    return Estimate(mean, mean - half, mean + half, tuple(values))


def variance_of_mean(values: Sequence[float]) -> Spread:
    """Variance of the mean of ``values``: s² / n, with n - 1 degrees of freedom."""
    n = len(values)
    if n < 2:
        return Spread(None, 0)
    mean = math.fsum(values) / n
    return Spread(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n, n - 1)


def half_width(parts: Sequence[Spread], level: float = LEVEL) -> float | None:
    """Half the t interval of a sum of independent means (Welch 1947).

    None if a variance is unknown.
    """
    variances = [part.variance for part in parts if part.variance is not None]
    if len(variances) < len(parts):
        return None
    total = math.fsum(variances)
    return t_quantile(freedom(parts), level) * math.sqrt(total) if total else 0.0


def freedom(parts: Sequence[Spread]) -> float:
    """Satterthwaite's degrees of freedom of a sum of variances; infinite if all are zero."""
    known = [(part.variance, part.freedom) for part in parts if part.variance]
    below = math.fsum(v**2 / n for v, n in known)
    return math.fsum(v for v, _ in known) ** 2 / below if below else math.inf


def t_quantile(degrees: float, level: float = LEVEL) -> float:
    """Two-sided quantile of Student's t, 1.96 for infinite degrees of freedom."""
    from scipy.special import ndtri, stdtrit

    upper = (1 + level) / 2
    return float(ndtri(upper) if math.isinf(degrees) else stdtrit(degrees, upper))


def power_of(size: float, deviation: float, *, methods: int, seeds: int) -> float:
    """Chance that a difference of ``size`` between the means of two methods is significant.

    By Fisher's least significant difference (two-sided, 5 %): ``deviation``, that of one run, is
    estimated from ``seeds`` runs of each of ``methods`` methods together, which gives methods x
    (seeds - 1) degrees of freedom. From the noncentral t distribution.
    """
    from scipy.special import nctdtr

    degrees = methods * (seeds - 1)
    if degrees < 1:
        return 0.0
    if deviation == 0:
        return 1.0 if size else 0.0
    least = t_quantile(degrees)
    far = size / (deviation * math.sqrt(2 / seeds))
    return float(1 - nctdtr(degrees, far, least) + nctdtr(degrees, far, -least))


def seeds_for(
    size: float, deviation: float, *, methods: int = 10, chance: float = 0.8, most: int = 10_000
) -> int | None:
    """The fewest seeds with which a difference of ``size`` is seen with that ``chance``; None if
    more than ``most`` are needed."""
    low, high = 1, 2
    while power_of(size, deviation, methods=methods, seeds=high) < chance:
        if high >= most:
            return None
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        seen = power_of(size, deviation, methods=methods, seeds=middle) >= chance
        low, high = (low, middle) if seen else (middle, high)
    return high


def mean_scores(runs: Sequence[Scores]) -> dict[str, float]:
    """Benchmark -> mean over ``runs``, for the benchmarks that every run has."""
    shared = [b for b in runs[0] if all(b in run for run in runs)] if runs else []
    return {b: math.fsum(run[b] for run in runs) / len(runs) for b in shared}


def stated_columns(
    full: Sequence[Scores], chance: Scores, noise: Scores
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The benchmarks of Rel. (%), and benchmark -> reason for the others.

    ``chance``: benchmark -> score of guessing, default 0. No ratio can be taken if the full-data
    mean does not exceed it by twice its standard error over samples (``noise``).
    """
    means = mean_scores(full)
    reasons = {b: "not every full-data run has it" for run in full for b in run if b not in means}
    for name, mean in means.items():
        floor = chance.get(name, 0.0)
        if mean <= floor:
            reasons[name] = f"the full-data score {mean:.4g} is not above {floor:g}"
        elif floor and mean - floor <= 2 * noise.get(name, 0.0):
            reasons[name] = f"the full-data score {mean:.4g} is at chance ({floor:g}) within noise"
    return tuple(name for name in means if name not in reasons), reasons


def relative(
    runs: Sequence[Scores],
    full: Sequence[Scores],
    columns: Sequence[str],
    *,
    chance: Scores | None = None,
    full_is_exact: bool = False,
) -> Relative:
    """Mean over ``columns`` of 100 (score - chance) / (full - chance), and its 95 % interval.

    ``full``: the full-data runs, whose mean is 100 %. The interval covers the seed noise of
    ``runs`` and ``full``, by the delta method with Welch's degrees of freedom; with one seed of
    either there is none. ``full_is_exact``: a published row, whose noise is unknown and not
    counted. If a run lacks one of the columns there is no estimate.
    """
    # a run without one of the columns has no figure: a mean over fewer cannot be compared
    lacking = [b for b in columns if not all(b in run for run in runs)]
    if lacking or not columns:
        why = f"no {', '.join(lacking)}" if lacking else "no benchmark that a ratio can be taken of"
        return Relative(None, tuple(columns), why=why)
    # per benchmark the score of guessing, and the full-data mean above it
    floor = {b: (chance or {}).get(b, 0.0) for b in columns}
    whole = {b: m - floor[b] for b, m in mean_scores(full).items() if b in floor}
    # Rel. of each run
    values = [_mean_of(100 * (run[b] - floor[b]) / whole[b] for b in columns) for run in runs]
    # delta method: how much the figure moves with the scores of each full-data run
    mine = {b: m - floor[b] for b, m in mean_scores(runs).items() if b in floor}
    pulled = [
        _mean_of(100 * mine[b] * (one[b] - floor[b]) / whole[b] ** 2 for b in columns)
        for one in full
    ]
    # the two sources of seed noise are independent: their variances add
    parts = [variance_of_mean(values), *([] if full_is_exact else [variance_of_mean(pulled)])]
    half, mean = half_width(parts), _mean_of(values)
    low, high = (None, None) if half is None else (mean - half, mean + half)
    missing = "" if half is not None else _no_interval(len(runs), len(full))
    # Rel. is the mean over the runs; without an interval the reason is kept
    found = Estimate(mean, low, high, tuple(values))
    return Relative(found, tuple(columns), no_interval=missing)


def _no_interval(runs: int, full: int) -> str:
    if runs < 2:
        return "one seed, so no interval"
    return f"{full} full-data run: its own noise is not known, so no interval"


def _mean_of(values: Iterable[float]) -> float:
    found = list(values)
    return math.fsum(found) / len(found)
