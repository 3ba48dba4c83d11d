"""Bootstrap of scores that are sums of ratios: means, F1, MME's sum over categories.

A score is S = sum over strata s of (sum of num) / (sum of den), over the units of s. A mean has one
stratum and den = 1; F1 has num = 2 TP, den = 2 TP + FP + FN; MME has a stratum per category and a
unit per pair of questions. A bootstrap draws units with replacement within their stratum.
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
class Units:
    """What is drawn in a bootstrap: U units, in the order of their first sample."""

    ids: tuple[str, ...]
    """Names: two runs of one benchmark are paired by them."""
    num: Array
    den: Array
    strata: NDArray[np.int64]
    """Number of the stratum of each unit, from 0 in order of appearance."""


def parts(rows: Sequence[Mapping[str, Any]]) -> Units:
    """The units of ``samples.jsonl``. Rows without a score are left out.

    Row fields: ``doc_id``, ``score``; ``num`` (absent: the score), ``den`` (absent: 1), ``unit``
    (absent: the row is one) and ``stratum`` (absent: all rows are of one).
    """
    sums: dict[str, list[float]] = {}
    strata: dict[str, str] = {}
    for row in rows:
        if row["score"] is None:
            continue
        name = str(row.get("unit", row["doc_id"]))
        unit = sums.setdefault(name, [0.0, 0.0])
        unit[0] += row.get("num", row["score"])
        unit[1] += row.get("den", 1.0)
        strata[name] = str(row.get("stratum", ""))
    numbers = {stratum: i for i, stratum in enumerate(dict.fromkeys(strata.values()))}
    num, den = np.array(list(sums.values()), np.float64).reshape(-1, 2).T
    of = np.array([numbers[s] for s in strata.values()], np.int64)
    return Units(tuple(sums), num, den, of)


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


def standard_error(units: Units, *, count: int = 1000, seed: int = 0) -> float | None:
    """Standard error of S; None for fewer than two units, or when draws have no value.

    s / sqrt(n) for a mean over n units; else the deviation of S over bootstrap draws.
    """
    n = len(units.ids)
    if n < 2:
        return None
    if not units.strata.any() and (units.den == units.den[0]).all():
        values = (units.num / units.den[0]).tolist()
        mean = math.fsum(values) / n
        return math.sqrt(math.fsum((x - mean) ** 2 for x in values) / (n - 1) / n)
    weights = draws(units.strata, count, seed)
    drawn = ratio_of_sums(units.num, units.den, units.strata, weights)
    return float(np.std(drawn, ddof=1)) if np.isfinite(drawn).all() else None
