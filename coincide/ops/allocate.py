"""How many examples each cluster contributes: P_i ∝ exp(score_i / temperature) (COINCIDE, eq. 4).

Shares are computed in log space, so that no score overflows. Empty clusters contribute nothing.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

AllocationRule = Literal["sequential", "softmax"]


def allocate(
    score: np.ndarray,
    sizes: np.ndarray,
    k: int,
    temperature: float,
    *,
    rule: AllocationRule = "sequential",
) -> np.ndarray:
    """Examples to take from each cluster, int64 [K], never more than ``sizes`` [K].

    ``score`` float [K] (S_i / D_i in COINCIDE); ``sizes`` int [K], usable rows of each cluster;
    ``k`` is the total asked for; ``temperature`` is τ.

    ``sequential`` is the loop of the released code: clusters are visited by descending share, and
    each is asked for ``round(R P_i)`` (half to even), where R is what is left of ``k`` and P its
    share among the clusters not yet visited. What a full cluster cannot give is asked of later
    ones; if the last clusters are full as well, the counts sum to less than ``k``.

    ``softmax`` is the paper's formula in one step: ``k P_i``. What exceeds a cluster's size is
    distributed over the others in proportion; fractions are rounded by largest remainder (ties to
    the lowest cluster). It sums to ``min(k, sizes.sum())``.

    Raises:
        ValueError: shapes differ, a score of a non-empty cluster is not finite, ``temperature`` is
            not positive, ``k`` or a size is negative, or the rule is unknown.
    """
    targets = allocation_targets(score, sizes, k, temperature, rule=rule)
    if rule == "sequential":
        return np.minimum(targets, sizes)
    return _spill_over(np.asarray(score) / temperature, np.asarray(sizes, np.int64), k)


def allocation_targets(
    score: np.ndarray,
    sizes: np.ndarray,
    k: int,
    temperature: float,
    *,
    rule: AllocationRule = "sequential",
) -> np.ndarray:
    """What the rule asks of each cluster before the cluster's size limits it, int64 [K].

    Arguments and errors as for :func:`allocate`. For ``softmax`` these are the rounded shares ``k
    P_i`` before the excess is distributed.
    """
    _check(score, sizes, k, temperature)
    score, sizes = np.asarray(score, np.float64), np.asarray(sizes, np.int64)
    if rule == "sequential":
        return _sequential_targets(score / temperature, sizes, k, processing_order(score, sizes))
    if rule == "softmax":
        filled, targets = np.flatnonzero(sizes), np.zeros_like(sizes)
        targets[filled] = np.rint(k * _softmax(score[filled] / temperature))
        return targets
    raise ValueError(f"got allocation rule {rule!r}; choices: sequential, softmax")


def processing_order(score: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Indices of the non-empty clusters by descending ``score`` [K], int64.

    Ties (in practice centroids without a language part, all with score 0) go to the lowest index.
    The released code reverses ``np.argsort``, which leaves ties in an order that depends on the
    CPU's vector units; so do its counts of tied clusters.
    """
    filled = np.flatnonzero(np.asarray(sizes) > 0)
    return filled[np.argsort(-np.asarray(score, np.float64)[filled], kind="stable")]


def fill_shortfall(counts: np.ndarray, sizes: np.ndarray, k: int, order: np.ndarray) -> np.ndarray:
    """``counts`` [K] raised to sum to ``k``: clusters with rows left give all of them, in
    ``order``.
    """
    filled, left = np.array(counts, np.int64), k - int(np.sum(counts))
    for cluster in order:
        extra = min(int(sizes[cluster] - filled[cluster]), left)
        filled[cluster] += extra
        left -= extra
    return filled


def _sequential_targets(
    logits: np.ndarray, sizes: np.ndarray, k: int, order: np.ndarray
) -> np.ndarray:
    targets, left = np.zeros(len(sizes), np.int64), k
    for cluster, share in zip(order, _shares_of_unvisited(logits[order]), strict=True):
        targets[cluster] = round(left * share)
        left -= int(min(targets[cluster], sizes[cluster]))
    return targets


def _shares_of_unvisited(logits: np.ndarray) -> list[float]:
    """``P_i = exp(l_i) / Σ_{j >= i} exp(l_j)`` for descending ``l``.

    By 1 / P_i = 1 + exp(l_{i+1} - l_i) / P_{i+1}: no exponent is positive, so nothing overflows,
    and equal logits share exactly.
    """
    shares: list[float] = []
    total = 0.0
    for step in reversed(np.append(np.diff(logits), -np.inf)[: len(logits)]):
        total = 1 + total * float(np.exp(step))
        shares.append(1 / total)
    return shares[::-1]


def _softmax(logits: np.ndarray) -> np.ndarray:
    weight = np.exp(logits - logits.max(initial=-np.inf))
    return weight / weight.sum()


def _spill_over(logits: np.ndarray, sizes: np.ndarray, k: int) -> np.ndarray:
    if sizes.sum() <= k:
        return sizes.copy()
    counts, left, open_ = np.zeros_like(sizes), k, np.flatnonzero(sizes)
    while left:
        quota = left * _softmax(logits[open_])
        full = quota >= sizes[open_]
        if not full.any():
            counts[open_] = largest_remainder(quota, left)
            break
        counts[open_[full]] = sizes[open_[full]]
        left -= int(sizes[open_[full]].sum())
        open_ = open_[~full]
    return counts


def largest_remainder(quota: np.ndarray, total: int) -> np.ndarray:
    """``quota`` [K], which sums to ``total``, in whole numbers that do, int64: rounded down, then
    one more where most was lost, ties to the lowest cluster.
    """
    whole = np.floor(quota).astype(np.int64)
    ranked = np.argsort(-(quota - whole), kind="stable")
    whole[ranked[: total - int(whole.sum())]] += 1
    return whole


def _check(score: np.ndarray, sizes: np.ndarray, k: int, temperature: float) -> None:
    score, sizes = np.asarray(score), np.asarray(sizes)
    if score.shape != sizes.shape or score.ndim != 1:
        raise ValueError(f"got scores {score.shape} and sizes {sizes.shape}; expected both [K]")
    if not temperature > 0:
        raise ValueError(f"got temperature {temperature}; expected above 0 (the paper: 0.1)")
    if k < 0 or (sizes < 0).any():
        raise ValueError(f"got k = {k} and smallest size {sizes.min()}; expected none below 0")
    with np.errstate(over="ignore"):
        broken = np.flatnonzero((sizes > 0) & ~np.isfinite(score / temperature))
    if len(broken):
        raise ValueError(
            f"score / temperature is not finite for clusters {broken[:10].tolist()}; expected "
            "finite transferability / density. Raise gamma (a density underflowed to 0) or the "
            "temperature, or check the features."
        )
