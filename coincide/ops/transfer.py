"""Transferability of a cluster: how close its centroid is to the others (COINCIDE, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from coincide.ops.arrays import as_float64

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

    ``centroids`` [K, D] hold, per layer, ``[visual H | language H]``; ``layers`` names the layers
    or gives their number. The released code compares the ``language`` halves and leaves out pairs
    with a cosine above ``exclude_above`` = 0.9 (itself among them); the paper compares whole
    centroids (``all``) with every other one (``None``). A half of zeros has cosine 0 to
    everything; a centroid with no pair left gets 0.

    Raises:
        ValueError: the columns do not divide into layers and modalities, or the choice is unknown.
    """
    unit = _unit_rows(_columns(centroids, layers, modality))
    result = np.empty(len(unit))
    for start in range(0, len(unit), _BLOCK_ROWS):
        cosine = unit[start : start + _BLOCK_ROWS] @ unit.T
        rows = np.arange(len(cosine))
        if exclude_above is None:
            counted = np.ones(cosine.shape, bool)
            counted[rows, start + rows] = False
        else:
            counted = cosine <= exclude_above
        pairs = counted.sum(1)
        result[start : start + _BLOCK_ROWS] = np.where(counted, cosine, 0).sum(1) / np.maximum(
            pairs, 1
        )
    return result


def _columns(centroids: np.ndarray, layers: int | Sequence[int], modality: Modality) -> np.ndarray:
    given = np.asarray(layers)
    count = given.size if given.ndim else int(given)
    width = centroids.shape[1]
    if count < 1 or width % (2 * count):
        raise ValueError(
            f"got centroids of width {width} and {count} layers; expected a multiple of "
            f"2 x layers, columns per layer [visual | language]. Give the layers of the features."
        )
    if modality == "all":
        return as_float64(centroids)
    if modality != "language":
        raise ValueError(f"got modality {modality!r}; choices: language, all")
    halves = as_float64(centroids).reshape(len(centroids), count, 2, width // (2 * count))
    return halves[:, :, 1].reshape(len(centroids), -1)


def _unit_rows(x: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)
