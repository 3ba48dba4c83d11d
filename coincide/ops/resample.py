"""Standard errors and bootstrap draws of scores that are sums of ratios: means, F1, MME.

A score is S = sum over strata s of (sum of num) / (sum of den), over the units of s. A mean has one
stratum and den = 1; F1 has num = 2 TP, den = 2 TP + FP + FN; MME has a stratum per category. A unit
is the set of samples that are drawn together, e.g. the questions about one picture. A bootstrap
draws units with replacement. The standard error is the linearised one of cluster sampling (Cochran
1977, 6.5 and 9A), which is exact for means and needs no draws.
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
    """The U units of a bootstrap, in the order of their first sample."""

    ids: tuple[str, ...]
    """Names of the units; two runs of one benchmark are paired by them. A unit with samples in
    several strata is listed once for each."""
    num: Array
    """[U], sum of the numerators of the unit's samples."""
    den: Array
    """[U], sum of their denominators."""
    strata: NDArray[np.int64]
    """[U], number of each unit's stratum, from 0 in order of appearance."""


def resampling_units(rows: Sequence[Mapping[str, Any]]) -> ResamplingUnits:
    """The units of the records of ``samples.jsonl``. Records whose score is None are left out.

    Fields of a record: ``doc_id``, ``score``; ``num`` (absent: the score), ``den`` (absent: 1),
    ``unit`` (absent: each record is a unit, as before units were recorded) and ``stratum`` (absent:
    all records are in one).
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
    """``unit`` [U], the number of each entry's unit, and ``group``, the number of each unit's
    group.

    ``ids`` and ``strata`` [U] as in :class:`ResamplingUnits`. Units are drawn within their group: a
    stratum, or several strata where units have samples in more than one of them.
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
    """S of each of B draws, float64 [B]: NaN where the denominators of a stratum sum to 0.

    ``num``, ``den``, ``strata``: [U]; ``weights`` [B, U]: how often each unit was drawn; None: a
    single "draw" with every unit once, i.e. the score itself.
    """
    drawn = np.ones((1, len(num)), np.int64) if weights is None else weights
    total = np.zeros(len(drawn))
    with np.errstate(invalid="ignore", divide="ignore"):
        for stratum in range(int(strata.max(initial=-1)) + 1):
            inside = strata == stratum
            total += (drawn[:, inside] @ num[inside]) / (drawn[:, inside] @ den[inside])
    return total if len(num) else np.full(len(drawn), np.nan)


def standard_error(units: ResamplingUnits) -> float | None:
    """Standard error of S; None for fewer than two units, or where S has no value.

    For a mean over n units it is s / sqrt(n). In general S is linearised: the deviation of unit u
    is z_u = sum over strata of (num - R den) / (sum of den), with R the stratum's ratio, and the
    error is the root of the sum over groups of n / (n - 1) sum (z - mean z)^2. A group of one unit
    adds nothing.
    """
    n = len(units.ids)
    if n < 2:
        return None
    # a plain mean: the usual formula, in exact summation
    whole = len(set(units.ids)) == n
    if whole and not units.strata.any() and (units.den == units.den[0]).all():
        values = (units.num / units.den[0]).tolist()
        mean = math.fsum(values) / n
        return math.sqrt(math.fsum((x - mean) ** 2 for x in values) / (n - 1) / n)
    # sums of each stratum; without a denominator there is no score
    strata = units.strata
    num, den = (np.bincount(strata, part) for part in (units.num, units.den))
    if not (den > 0).all():
        return None
    # linearised deviation of each unit, over all its strata
    unit, group = group_units(units.ids, strata)
    z = np.bincount(unit, (units.num - (num / den)[strata] * units.den) / den[strata])
    # variance within each group of units
    sizes = np.bincount(group)
    if sizes.max() < 2:
        return None
    rest = z - (np.bincount(group, z) / np.maximum(sizes, 1))[group]
    squares = np.bincount(group, rest**2)
    return math.sqrt(float((squares * sizes / np.maximum(sizes - 1, 1)).sum()))
