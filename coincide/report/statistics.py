"""Means, intervals and relative performance: numbers in, numbers out.

One seed has no interval: ``None``, never 0. Seed noise in this field exceeds many reported gains
(two identical LLaVA runs differ by about 20 points of MME), so an interval that cannot be had is
shown as missing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEVEL = 0.95


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
    """Rel. (%): the mean over benchmarks of 100 x score / full-data score."""

    estimate: Estimate | None
    """None: missing, and ``why`` says why."""
    columns: tuple[str, ...] = ()
    """The benchmarks it averages."""
    left_out: Mapping[str, str] | None = None
    """Benchmark -> why it is not averaged."""
    why: str = ""


def estimate(values: Sequence[float], level: float = LEVEL) -> Estimate:
    """The mean of ``values`` and mean -+ t(n-1) s / sqrt(n), with s the sample deviation."""
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return Estimate(mean, None, None, tuple(values))
    from scipy.special import stdtrit

    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    half = float(stdtrit(n - 1, (1 + level) / 2)) * deviation / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, tuple(values))


def relative(seeds: Sequence[Mapping[str, float]], full: Mapping[str, float]) -> Relative:
    """Relative performance of one setting against a full-data row.

    ``seeds``: benchmark -> score of each run; ``full``: benchmark -> full-data score, the mean over
    its own seeds. Averages the benchmarks that every run and the full row have. The interval is
    over ``seeds``: the noise of the full row itself is not in it.
    """
    named = list(dict.fromkeys([*full, *(b for scores in seeds for b in scores)]))
    reasons = {b: _why_left_out(b, seeds, full) for b in named}
    left_out = {b: why for b, why in reasons.items() if why}
    columns = tuple(b for b in named if not reasons[b])
    if not columns:
        why = "no benchmark in common with the full-data run"
        return Relative(None, (), left_out, why)
    values = [math.fsum(100 * s[b] / full[b] for b in columns) / len(columns) for s in seeds]
    return Relative(estimate(values), columns, left_out)


def _why_left_out(
    benchmark: str, seeds: Sequence[Mapping[str, float]], full: Mapping[str, float]
) -> str:
    if benchmark not in full:
        return "the full-data run has no such score"
    if full[benchmark] <= 0:
        return f"the full-data score is {full[benchmark]:g}, no ratio can be taken"
    without = sum(benchmark not in scores for scores in seeds)
    if without == len(seeds):
        return "no score"
    return f"{without} of {len(seeds)} seeds have no score" if without else ""
