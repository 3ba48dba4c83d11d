"""Distances of pairs of rows as the float32 number nearest to the true one.

A sum in float64 depends on the order in which a processor adds, in its last bits; rounded to
float32 it nearly never does. Where the error bound of the sum allows two float32 numbers, integers
of any length decide. So a distance has the same bytes on every processor.
"""

from __future__ import annotations

from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any, Literal

import numpy as np

Metric = Literal["sqeuclidean", "cosine"]
RESOLUTION = 1e-12
"""Squared distances of at most this share of |a|² + |b|² are 0: the rows are equal."""
_BLOCK = 2**18
"""Numbers of an intermediate result: as float64 they fit the cache."""


def pair_distances(
    rows: np.ndarray, left: np.ndarray, right: np.ndarray, metric: Metric
) -> np.ndarray:
    """Distance float32 [p] of ``rows[left]`` and ``rows[right]``; ``rows`` float32 [n, D].

    ``|a - b|²`` or ``1 - cos(a, b)`` of the true values, rounded once; 0 where the squared distance
    (of unit rows under ``cosine``) is at most ``RESOLUTION`` of the squared lengths together.
    """
    import torch

    x = torch.from_numpy(rows)
    lengths = torch.linalg.vector_norm(x, dim=1, dtype=torch.float64)

    def gathered(at: torch.Tensor) -> torch.Tensor:
        some = x.index_select(0, at).double()
        return some.div_(lengths[at, None]) if metric == "cosine" else some

    squared = torch.empty(len(left), dtype=torch.float64)
    one, other = torch.from_numpy(left), torch.from_numpy(right)
    step = max(1, _BLOCK // max(1, x.shape[1]))
    for start in range(0, len(left), step):
        part = slice(start, start + step)
        apart = gathered(one[part]).sub_(gathered(other[part]))
        torch.sum(apart.square_(), dim=1, out=squared[part])
    if metric == "cosine":
        lengths = torch.ones_like(lengths)
    cut = RESOLUTION * (lengths[one].square() + lengths[other].square()).numpy()
    return _rounded(squared.numpy(), cut, rows, left, right, metric)


def _rounded(
    squared: np.ndarray,
    cut: np.ndarray,
    rows: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    metric: Metric,
) -> np.ndarray:
    """The true distances, rounded, from ``squared`` distances float64 [p] with rounding errors."""
    width = rows.shape[1]
    error = (width + 4) * 2.0**-52 * squared
    half = 1.0
    if metric == "cosine":  # unit rows have errors of their own
        turned = (width + 8) * 2.0**-52
        error += 2 * np.sqrt(squared) * turned + turned**2
        half = 0.5
    with np.errstate(over="ignore"):  # beyond float32 a distance is infinite
        low = (half * (squared - error)).astype(np.float32)
        high = (half * (squared + error)).astype(np.float32)
    equal = squared + error < cut * (1 - 1e-9)
    unsure = (low != high) | (np.abs(squared - cut) <= error + 1e-9 * cut)
    found = np.where(equal, np.float32(0), low)
    pairs = np.flatnonzero(unsure & ~equal & (squared > 0))
    if metric == "sqeuclidean":  # few digits, no rounding: then many are half way between two
        exact = _is_exact(squared[pairs], rows, left[pairs], right[pairs])
        whole = pairs[exact]
        found[whole] = np.where(squared[whole] <= cut[whole], 0, squared[whole])
        pairs = pairs[~exact]
    for i in pairs.tolist():
        found[i] = _exactly(rows[left[i]], rows[right[i]], metric)
    return found


def _is_exact(
    squared: np.ndarray, rows: np.ndarray, left: np.ndarray, right: np.ndarray
) -> np.ndarray:
    """Of which pairs no step to the ``squared`` distance was rounded: bool [p]."""
    used, at = np.unique(np.concatenate([left, right]), return_inverse=True)
    part, power = np.frexp(rows[used].astype(np.float64))
    whole = np.abs(np.ldexp(part, 24)).astype(np.int64)
    last = np.where(whole > 0, np.ldexp(whole & -whole, power - 24), np.inf).min(axis=1)
    largest = np.abs(rows[used]).max(axis=1).astype(np.float64)
    one, other = at[: len(left)], at[len(left) :]
    unit = np.minimum(last[one], last[other])
    longest = np.maximum(largest[one], largest[other])
    return (np.maximum(squared, longest**2) / unit**2 < 2.0**53) & (unit > 1e-140)


def _exactly(a: np.ndarray, b: np.ndarray, metric: Metric) -> np.float32:
    """The distance of two rows, float32 [D], computed in integers."""
    one, other, scale = _integers(a, b)
    lengths = sum(v * v for v in one), sum(v * v for v in other)
    product = sum(v * w for v, w in zip(one, other, strict=True))
    cut = Fraction(RESOLUTION)
    if metric == "sqeuclidean":
        squared = sum(lengths) - 2 * product
        zero = squared <= cut * sum(lengths)
        return np.float32(0) if zero else nearest_float32(Fraction(squared) * scale**2)
    with localcontext() as context:
        context.prec = 60
        apart = Fraction(1 - Decimal(product) / (Decimal(lengths[0]) * Decimal(lengths[1])).sqrt())
    return np.float32(0) if apart <= cut else nearest_float32(apart)


def _integers(a: np.ndarray, b: np.ndarray) -> tuple[list[int], list[int], Fraction]:
    """Both rows as whole numbers, and what one of them is worth."""
    part, power = np.frexp(np.stack([a, b]).astype(np.float64))
    whole = np.ldexp(part, 24).astype(np.int64)  # a float32 has 24 bits
    lowest = int(power[part != 0].min(initial=0))
    shift = np.where(part != 0, power - lowest, 0)
    one, other = (
        [v << s for v, s in zip(row.tolist(), by.tolist(), strict=True)]
        for row, by in zip(whole, shift, strict=True)
    )
    return one, other, Fraction(2) ** (lowest - 24)


def nearest_float32(value: Fraction) -> np.float32:
    """The float32 number nearest to ``value`` >= 0; of two, the one whose last bit is 0."""
    if value >= Fraction(2) ** 128 - Fraction(2) ** 103:
        return np.float32(np.inf)
    near = min(np.float32(float(value)), np.finfo(np.float32).max)
    around: list[Any] = [near, np.nextafter(near, np.float32(0)), np.nextafter(near, np.inf)]
    finite = [v for v in around if np.isfinite(v)]
    return min(finite, key=lambda v: (abs(Fraction(float(v)) - value), int(v.view(np.int32)) & 1))
