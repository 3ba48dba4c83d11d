"""Self-supervised prototypes: how far an example is from the nearest cluster centre.

Score, with the rows' directions clustered by spherical k-means:

    s_i = 1 - cos(x_i, nearest centroid)

From: Sorscher et al. 2022 ("Beyond neural scaling laws"), on SwAV embeddings of ImageNet: keep the
far ones (``hard``) when data are plentiful, the near ones (``easy``) when they are scarce.

Uncertain: as a baseline for vision-language models COINCIDE gives neither code nor embedding, K or
direction. Ours: the last hidden state of the last real token, clustered together with SemDeDup's;
K of the dataset; ``hard`` by default. A 20 % cut of 665K is neither clearly plentiful nor scarce:
run both. The report labels which one it was (``variant``).

Rows: text-only examples are scored like all others; rows without an answer never selected.

Cost: the reference pass and one k-means, both shared with SemDeDup; then N dot products.

Published, LLaVA-665K 20 % on LLaVA-1.5-7B: Rel. 93.4; COMPACT at about 10 %: 96.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from baselines.ranking import (
    TEXT_ONLY,
    Direction,
    TextOnly,
    check_choice,
    check_positive,
    select_by_score,
)
from coincide.features.signals.hidden_last import HiddenLast
from coincide.ops.products import as_float64
from coincide.ops.threads import map_threads
from coincide.schema import Clustering, Clusters, Need, Pool, Selection

BLOCK_BYTES = 16 * 2**20
"""Bytes of float64 features that a thread reads at once."""


def prototype_distance(x: np.ndarray, clusters: Clusters) -> np.ndarray:
    """1 - cosine of every row of ``x`` [N, D] with its own centroid: float32 [N].

    Computed in float64; NaN for rows in no cluster.
    """
    distance = np.full(len(x), np.nan, dtype=np.float32)
    block = max(1, BLOCK_BYTES // (8 * x.shape[1]))

    def measure(start: int) -> None:
        assigned = clusters.assignment[start : start + block]
        here = np.flatnonzero(assigned >= 0)
        rows = unit_rows(x[start : start + block][here])
        centroids = unit_rows(clusters.centroids[assigned[here]])
        distance[start + here] = 1 - np.einsum("nd,nd->n", rows, centroids)

    map_threads(measure, range(0, len(x), block))
    return distance


def unit_rows(x: np.ndarray) -> np.ndarray:
    """The rows of ``x`` [n, D] as float64 of unit norm."""
    rows = as_float64(x)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@dataclass(frozen=True)
class SelfSup:
    """Ranks by the distance to the nearest prototype (cluster centroid)."""

    clusters: int
    iterations: int = 50
    cluster_seed: int = 1234
    keep: Literal["hard", "easy"] = "hard"
    text_only: TextOnly = "keep"
    name: str = "self_sup"
    fixed_size: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_choice(self.name, "keep", self.keep, ("hard", "easy"))
        check_choice(self.name, "text_only", self.text_only, TEXT_ONLY)
        check_positive(self.name, clusters=self.clusters, iterations=self.iterations)

    @property
    def label(self) -> str:
        """Which end of the ranking is kept, for tables."""
        return self.keep

    @property
    def uses_seed(self) -> bool:
        """Whether the run's seed matters: only for the random quota of text-only rows."""
        return self.text_only == "quota"

    def needs(self) -> Sequence[Need]:
        """The last token's hidden state and its spherical k-means clustering."""
        return HiddenLast(), self._clustering()

    def score_config(self, seed: int) -> dict[str, Any]:
        """Nothing besides the signal and the clustering."""
        return {}

    def score(self, pool: Pool, seed: int) -> dict[str, np.ndarray]:
        """``{"score": float32 [N]}``: the distance to the prototype; NaN for rows in no cluster."""
        x, clusters = pool.signal(HiddenLast()), pool.clusters(self._clustering())
        return {"score": prototype_distance(x, clusters)}

    def select(self, pool: Pool, k: int, seed: int) -> Selection:
        """The ``k`` rows farthest from (``hard``) or nearest to (``easy``) their centroid."""
        score = pool.scored(self, seed)["score"]
        direction: Direction = "high" if self.keep == "hard" else "low"
        return select_by_score(pool, score, k, direction, self.text_only, seed)

    def _clustering(self) -> Clustering:
        return Clustering(HiddenLast(), self.clusters, self.iterations, self.cluster_seed)
