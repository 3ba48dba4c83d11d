"""Transferability of a cluster: how close its centroid is to the others (COINCIDE, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from coincide.ops.products import as_float64, products
from coincide.ops.threads import map_threads

Modality = Literal["language", "all"]
_BLOCK_ROWS = 1024


def transferability(
    centroids: np.ndarray,
    *,
    layers: int | Sequence[int],
    modality: Modality = "language",
    exclude_above: float | None = 0.9,
) -> np.ndarray:
    """Mean cosine of each centroid to the others, ``S_i = mean_j cos(c_i, c_j)``: float64 [K].

    ``centroids`` [K, D] hold, per layer, the columns ``[visual H | language H]``; ``layers`` is the
    number of layers or their list. The released code compares the ``language`` columns and ignores
    pairs with a cosine above ``exclude_above`` = 0.9 (each centroid with itself among them). The
    paper compares whole centroids (``all``) with every other one (``None``). A language half of
    zeros has cosine 0 to everything; a centroid without any pair left gets 0. Only two blocks of
    centroids are in memory at a time.

    Raises:
        ValueError: the columns do not divide into layers and modalities, or the choice is unknown.
    """
    given = np.asarray(layers)
    count = given.size if given.ndim else int(given)
    _check(centroids.shape[1], count, modality)

    def block(start: int) -> np.ndarray:
        return _unit_rows(_columns(centroids[start : start + _BLOCK_ROWS], count, modality))

    def sums_of(start: int) -> tuple[np.ndarray, np.ndarray]:
        rows = block(start)
        total, pairs = np.zeros(len(rows)), np.zeros(len(rows), np.int64)
        for other in range(0, len(centroids), _BLOCK_ROWS):
            cosine = products(rows, rows if other == start else block(other))
            if exclude_above is not None:
                counted = cosine <= exclude_above
            else:
                counted = np.ones(cosine.shape, bool)
                if other == start:
                    np.fill_diagonal(counted, False)
            total += np.where(counted, cosine, 0).sum(1)
            pairs += counted.sum(1)
        return total, pairs

    sums = map_threads(sums_of, range(0, len(centroids), _BLOCK_ROWS))
    total, pairs = (np.concatenate(part) for part in zip(*sums, strict=True))
    return total / np.maximum(pairs, 1)


def _check(width: int, layers: int, modality: str) -> None:
    if layers < 1 or width % (2 * layers):
        raise ValueError(
            f"got centroids of width {width} and {layers} layers; expected a multiple of "
            f"2 x layers, columns per layer [visual | language]. Give the layers of the features."
        )
    if modality not in ("language", "all"):
        raise ValueError(f"got modality {modality!r}; choices: language, all")


def _columns(centroids: np.ndarray, layers: int, modality: Modality) -> np.ndarray:
    """float64 [K, D] or, of the language halves, [K, D / 2]."""
    if modality == "all":
        return as_float64(centroids)
    halves = np.reshape(centroids, (len(centroids), layers, 2, -1))
    return as_float64(halves[:, :, 1].reshape(len(centroids), -1))


def _unit_rows(x: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)
