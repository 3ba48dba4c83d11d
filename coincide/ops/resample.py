"""Errors of scores that are sums of ratios: means, F1, MME's sum over categories.

A score is S = sum over strata s of (sum of num) / (sum of den), over the units of s. A mean has one
stratum and den = 1; F1 has num = 2 TP, den = 2 TP + FP + FN; MME has a stratum per category. A unit
is what is drawn together, e.g. the questions about one picture. A bootstrap draws units with
replacement; a standard error is the linearised one of cluster samples (Cochran 1977, 6.5 and 9A),
which is exact for means and needs no draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ResamplingUnits:
    """What is drawn in a bootstrap: U units, in the order of their first sample."""

    ids: tuple[str, ...]
    """Names: two runs of one benchmark are paired by them. A unit that has samples in several
    strata stands here once for each."""
    num: Array
    den: Array
    strata: NDArray[np.int64]
    """Number of the stratum of each unit, from 0 in order of appearance."""


def resampling_units(rows: Sequence[Mapping[str, Any]]) -> ResamplingUnits:
    """The units of ``samples.jsonl``. Rows without a score are left out.

    Row fields: ``doc_id``, ``score``; ``num`` (absent: the score), ``den`` (absent: 1), ``unit``
    (absent, as before units were recorded: the row is one) and ``stratum`` (absent: all rows are
    of one).
    """
    sums: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if row["score"] is None:
            continue
        name = (str(row.get("unit", row["doc_id"])), str(row.get("stratum", "")))
        unit = sums.setdefault(name, [0.0, 0.0])
        unit[0] += row.get("num", row["score"])
        unit[1] += row.get("den", 1.0)
    numbers = {s: i for i, s in enumerate(dict.fromkeys(s for _, s in sums))}
    num, den = np.array(list(sums.values()), np.float64).reshape(-1, 2).T
    of = np.array([numbers[s] for _, s in sums], np.int64)
    return ResamplingUnits(tuple(unit for unit, _ in sums), num, den, of)


def group_units(
    ids: Sequence[Any] | NDArray[Any], strata: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """``unit`` [U], the number of each entry's unit, and ``group`` per unit: units are drawn within
    their group, which is a stratum, or the strata that units with samples in several of them join.
    """
    _, unit = np.unique(np.asarray(ids), return_inverse=True)
    of_stratum = np.arange(int(strata.max(initial=-1)) + 1)
    first = np.full(int(unit.max(initial=-1)) + 1, len(of_stratum))
    while True:  # each round hands the lowest number on to strata with a unit in common
        np.minimum.at(first, unit, of_stratum[strata])
        lowest = of_stratum.copy()
        np.minimum.at(lowest, strata, first[unit])
        if (lowest == of_stratum).all():
            return unit.astype(np.int64), first.astype(np.int64)
        of_stratum = lowest


def ratio_of_sums(
    num: Array, den: Array, strata: NDArray[np.int64], weights: NDArray[np.int64] | None = None
) -> Array:
    """S of each of B draws, float64 [B]: NaN where the den of a stratum sums to 0.

    ``num``, ``den``, ``strata``: [U]; ``weights`` [B, U]: how often each unit was drawn; None is
    one draw of each unit once.
    """
    drawn = np.ones((1, len(num)), np.int64) if weights is None else weights
    total = np.zeros(len(drawn))
    with np.errstate(invalid="ignore", divide="ignore"):
        for stratum in range(int(strata.max(initial=-1)) + 1):
            inside = strata == stratum
            total += (drawn[:, inside] @ num[inside]) / (drawn[:, inside] @ den[inside])
    return total if len(num) else np.full(len(drawn), np.nan)


def draws(strata: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """``count`` bootstrap draws, [count, U]: in each stratum as many units as it has."""
    generator = np.random.default_rng(seed)
    weights = np.zeros((count, len(strata)), np.int64)
    for stratum in range(int(strata.max(initial=-1)) + 1):
        inside = np.flatnonzero(strata == stratum)
        weights[:, inside] = generator.multinomial(
            len(inside), np.full(len(inside), 1 / len(inside)), size=count
        )
    return weights


def standard_error(units: ResamplingUnits) -> float | None:
    """Standard error of S; None for fewer than two units, or where S has no value.

    s / sqrt(n) for a mean over n units; else of the linearised S, whose deviation in unit u is
    z_u = sum over strata of (num - R den) / (sum of den) with R the stratum's ratio: the root of
    the sum over groups of n / (n - 1) sum (z - mean z)^2. A group of one unit adds nothing.
    """
    n = len(units.ids)
    if n < 2:
        return None
    whole = len(set(units.ids)) == n
    if whole and not units.strata.any() and (units.den == units.den[0]).all():
        values = (units.num / units.den[0]).tolist()
        mean = math.fsum(values) / n
        return math.sqrt(math.fsum((x - mean) ** 2 for x in values) / (n - 1) / n)
    strata = units.strata
    num, den = (np.bincount(strata, part) for part in (units.num, units.den))
    if not (den > 0).all():
        return None
    unit, group = group_units(units.ids, strata)
    z = np.bincount(unit, (units.num - (num / den)[strata] * units.den) / den[strata])
    sizes = np.bincount(group)
    if sizes.max() < 2:
        return None
    rest = z - (np.bincount(group, z) / np.maximum(sizes, 1))[group]
    squares = np.bincount(group, rest**2)
    return math.sqrt(float((squares * sizes / np.maximum(sizes - 1, 1)).sum()))
