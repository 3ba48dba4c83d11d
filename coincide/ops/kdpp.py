"""Exact samples of a k-DPP: sets S of k rows with probability proportional to det(L_S).

Kulesza and Taskar 2012, algorithms 1, 7 and 8.
"""

from __future__ import annotations

import numpy as np

RANK = 1e-10
"""Eigenvalues below this share of the largest count as zero."""


def sample_kdpp(kernel: np.ndarray, k: int, dice: np.random.Generator) -> np.ndarray:
    """``k`` indices, int64 ascending, sampled with the symmetric positive semidefinite ``kernel``
    [n, n].

    If the kernel's rank is less than k (rows that are copies), the DPP gives as many as its rank;
    the others are those with the largest diagonal entries, ties to the lowest index. ``dice`` is
    the random generator.

    Raises:
        ValueError: k is not in 0..n.
    """
    n = len(kernel)
    if not 0 <= k <= n:
        raise ValueError(f"got k = {k} for {n} rows; expected 0 to {n}")
    values, vectors = np.linalg.eigh(np.asarray(kernel, np.float64))
    values = np.where(values > RANK * max(values.max(initial=0.0), 0.0), values, 0.0)
    drawn = min(k, int((values > 0).sum()))
    taken = _project(vectors[:, _eigenvectors(values, drawn, dice)], dice)
    others = np.setdiff1d(np.arange(n), taken)
    best = others[np.argsort(-np.diagonal(kernel)[others], kind="stable")]
    return np.sort(np.concatenate([taken, best[: k - drawn]]))


def elementary(values: np.ndarray, k: int) -> np.ndarray:
    """Elementary symmetric polynomials e_j of the first m of ``values`` [n].

    float64 [k + 1, n + 1], for j = 0..k and m = 0..n.
    """
    found = np.zeros((k + 1, len(values) + 1))
    found[0] = 1.0
    for j in range(1, k + 1):
        for m, value in enumerate(values.tolist(), 1):
            found[j, m] = found[j, m - 1] + value * found[j - 1, m - 1]
    return found


def _eigenvectors(values: np.ndarray, k: int, dice: np.random.Generator) -> list[int]:
    """Indices of ``k`` eigenvectors, drawn with probability proportional to their eigenvalues'
    product.
    """
    scaled = values / values.max(initial=1e-300)  # the odds do not change, and nothing overflows
    sums = elementary(scaled, k)
    chosen: list[int] = []
    for m in range(len(values), 0, -1):
        left = k - len(chosen)
        if not left:
            break
        if left == m or dice.random() * sums[left, m] < scaled[m - 1] * sums[left - 1, m - 1]:
            chosen.append(m - 1)
    return chosen


def _project(basis: np.ndarray, dice: np.random.Generator) -> np.ndarray:
    """The indices that the projection DPP of the orthonormal ``basis`` [n, k] draws, int64 [k]."""
    taken: list[int] = []
    while basis.shape[1]:
        odds = np.square(basis).sum(axis=1)
        odds[taken] = 0.0
        place = int(dice.choice(len(odds), p=odds / odds.sum()))
        taken.append(place)
        column = int(np.argmax(np.abs(basis[place])))
        pivot = basis[:, column] / basis[place, column]
        rest = np.delete(basis, column, axis=1)
        basis = rest - np.outer(pivot, rest[place])
        if basis.shape[1]:
            basis, _ = np.linalg.qr(basis)
    return np.array(taken, dtype=np.int64)
