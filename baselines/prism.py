"""PRISM: rows whose image resembles the others least, at a shallow layer of the model.

With F_i the mean over the image tokens of the residual stream after block ``layer``, over the N
rows with an image:

    c_i = F_i - mean F,   u_i = c_i / ‖c_i‖,   R_i = (1 / (N - 1)) sum over j != i of u_i · u_j

and the rows of lowest R are kept. With s = sum u_j that is (u_i · s - u_i · u_i) / (N - 1): exact,
one product a row. Since the c_i sum to zero, s is zero too where all ‖c_i‖ are equal; the ranking
lives on how the rows near the mean lean. Sums are in float64, ‖s‖ / N is in the manifest, and a
pool in which it is no more than the rounding of the stored features is refused.

From: PRISM (arXiv 2502.12119, ACL 2026), by its formulas; its code was not read. Which index its
"shallow" layer has is not known: ours is the first block (``layer: 0``) unless set. The paper takes
the *target* model before tuning; here it is the reference model, so ``reference`` says which.

Rows: the paper keeps all text-only rows beside its selection (``all``), so that what it calls 30 %
is 37.7 % of LLaVA-665K. Here the budget counts every row: ``quota``, their share at random, keeps
budgets comparable; ``drop`` leaves them out. Rows without an answer are never selected.

Cost: the reference pass, or alone that up to the block; selection one product a row.

Published: Rel. 101.7 over nine columns at 37.7 % of LLaVA-665K; DICS measured 97.7 at 25 %, where
random had 96.7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from baselines.ranking import check_choice, select_by_score, shares
from coincide.data.columns import pictured
from coincide.features.signals.visual_mean import VisualMean
from coincide.ops.clusters import LazyRows
from coincide.ops.products import as_float64
from coincide.schema import Need, Pool, Selection, UserError

POLICIES = ("quota", "all", "drop")
BLOCK = 4096
"""Rows that are in memory at once as float64. Part of the arithmetic: sums are block by block."""
HALF = 2.0**-12
"""Relative rounding of float16, root mean square at most."""


def correlation(x: Any, stored: float = HALF) -> tuple[np.ndarray, float]:
    """R of every row of ``x`` [n, H], float64 [n], and ‖s‖ / n.

    ``stored``: relative rounding of the features. Raises UserError where ‖s‖ / n is no more than it
    makes of features whose R are all alike.
    """
    n, starts = len(x), range(0, len(x), BLOCK)
    if n < 2:
        return np.zeros(n), 0.0
    mean = sum(as_float64(x[i : i + BLOCK]).sum(axis=0) for i in starts) / n
    total, spread = np.zeros(len(mean)), 0.0
    for i in starts:
        rows = as_float64(x[i : i + BLOCK])
        total += _directions(rows, mean).sum(axis=0)
        away = np.linalg.norm(rows - mean, axis=1).clip(1e-300)
        spread += float(((stored * np.linalg.norm(rows, axis=1) / away).clip(max=1) ** 2).sum())
    lean, noise = float(np.linalg.norm(total)) / n, spread**0.5 / n
    if lean <= 4 * noise:
        raise UserError(
            f"prism: the features of {n:,} rows with an image have no direction to rank by: the "
            f"mean of their centred directions is {lean:.1e} long, and rounding alone makes "
            f"{noise:.1e}. All R are equal. Choose another method.layer, or another method."
        )
    found = np.empty(n)
    for i in starts:
        u = _directions(as_float64(x[i : i + BLOCK]), mean)
        found[i : i + BLOCK] = (u @ total - (u * u).sum(axis=1)) / (n - 1)
    return found, lean


def _directions(rows: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Unit vectors from ``mean`` to ``rows``; zero for a row that is the mean, up to rounding."""
    centred = rows - mean
    norm = np.linalg.norm(centred, axis=1, keepdims=True)
    least = 8 * np.finfo(float).eps * np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(centred, norm, out=np.zeros_like(centred), where=norm > least)


@dataclass(frozen=True)
class Prism:
    """Lowest mean correlation of the image with those of all others."""

    layer: int = 0
    text_only: Literal["quota", "all", "drop"] = "quota"
    name: str = "prism"
    fixed_size: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_choice(self.name, "text_only", self.text_only, POLICIES)

    @property
    def uses_seed(self) -> bool:
        """Only the quota of text-only rows is drawn."""
        return self.text_only == "quota"

    def needs(self) -> Sequence[Need]:
        """The image tokens' mean after the block."""
        return (self._signal(),)

    def score_config(self, seed: int) -> dict[str, Any]:
        """The features say it all."""
        return {}

    def score(self, pool: Pool, seed: int) -> dict[str, np.ndarray]:
        """R float32 [N], NaN for rows that do not compete; ``lean`` [1] is ‖s‖ / N."""
        with_image = pictured(pool.examples)
        rows = np.flatnonzero(shares(pool, with_image, 0, "drop", seed).candidates)
        found, lean = correlation(LazyRows(pool.signal(self._signal()), rows))
        score = np.full(len(pool.examples), np.nan, np.float32)
        score[rows] = found
        return {"score": score, "lean": np.array([lean])}

    def select(self, pool: Pool, k: int, seed: int) -> Selection:
        """The ``k`` rows of lowest R, and the text-only rows."""
        scored = pool.scored(self, seed)
        found = select_by_score(pool, scored["score"], k, "low", self.text_only, seed)
        return Selection(
            found.rows,
            found.scores,
            found.ranking,
            {**found.facts, "length_of_the_mean_direction": float(scored["lean"][0])},
        )

    def _signal(self) -> VisualMean:
        return VisualMean(self.layer)
