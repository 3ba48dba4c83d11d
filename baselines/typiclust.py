"""TypiClust: of every cluster in turn, the row that is most typical of it.

1. k-means of the rows' features.
2. In each cluster typicality t_i = 1 / (mean distance to the ``neighbors`` nearest rows of the
   cluster), rows of unit length, distances Euclidean.
3. Clusters take turns, the largest first; each gives its most typical row that is left. Clusters of
   fewer than ``smallest`` rows wait until all others are used up.

From: Hacohen et al. 2022, for active learning with few labels: self-supervised features of images,
20 neighbours, as many clusters as labels but 500 at most, clusters below 5 rows left out. As a
baseline for vision-language models in the tables of 2026 (VisNec, PreSel), which say neither
features nor K.

Ours: the last hidden state and the k-means of SemDeDup and Self-Sup, with K of the dataset, so that
both are shared. The original computes typicality again without what it took; here it is computed
once, so that budgets are nested and the cost does not grow with the budget.

Rows: text-only examples are treated like all others; rows without an answer never selected.

Cost: the reference pass and one k-means, both shared; the sum over clusters of n_c² D.

Published, 15 % on LLaVA-1.5-7B (VisNec's table): of LLaVA-665K Rel. 96.9 (random 94.2), of
Vision-Flan 92.0 (96.7).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from baselines.ranking import TEXT_ONLY, TextOnly, check_choice, check_positive, shares
from baselines.typicality import nearest_cosines
from coincide.features.signals.hidden_last import HiddenLast
from coincide.ops.clusters import members_of
from coincide.schema import Clustering, Need, Pool, Selection

NO_DISTANCE = 1e-5
"""Added to a mean distance, so that copies of a row have a finite typicality."""


def typicality(x: Any, members: Sequence[np.ndarray], neighbors: int) -> np.ndarray:
    """t, float32 [N]; NaN for rows in no cluster, 0 for the only row of a cluster."""
    found = np.full(len(x), np.nan, dtype=np.float32)
    for rows, cosines in zip(members, nearest_cosines(x, members, neighbors), strict=True):
        if cosines.size:
            distance = np.sqrt(np.clip(2 - 2 * cosines, 0, None)).mean(axis=1)
            found[rows] = 1 / (distance + NO_DISTANCE)
        else:
            found[rows] = 0
    return found


def by_cluster_turns(typical: np.ndarray, assignment: np.ndarray, smallest: int) -> np.ndarray:
    """Rows with a typicality, int64, in the order in which clusters give them."""
    rows = np.flatnonzero(~np.isnan(typical))
    cluster = assignment[rows]
    size = np.bincount(cluster, minlength=1)[cluster]
    grouped = np.lexsort((rows, -typical[rows], cluster))
    turn = np.empty(len(rows), np.int64)
    turn[grouped] = np.arange(len(rows)) - np.searchsorted(cluster[grouped], cluster[grouped])
    return rows[np.lexsort((cluster, -size, turn, size < smallest))]


@dataclass(frozen=True)
class TypiClust:
    """Takes the most typical rows of all clusters in turn."""

    clusters: int
    iterations: int = 50
    cluster_seed: int = 1234
    neighbors: int = 20
    smallest: int = 5
    text_only: TextOnly = "keep"
    name: str = "typiclust"
    fixed_size: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_choice(self.name, "text_only", self.text_only, TEXT_ONLY)
        check_positive(
            self.name,
            clusters=self.clusters,
            iterations=self.iterations,
            neighbors=self.neighbors,
            smallest=self.smallest,
        )

    @property
    def uses_seed(self) -> bool:
        """Whether the run's seed matters: only for the random quota of text-only rows."""
        return self.text_only == "quota"

    def needs(self) -> Sequence[Need]:
        """The last token's hidden state and its spherical k-means clustering."""
        return HiddenLast(), self._clustering()

    def score_config(self, seed: int) -> dict[str, Any]:
        """Which rows are compared."""
        return {"neighbors": self.neighbors, "text_only": self.text_only}

    def score(self, pool: Pool, seed: int) -> dict[str, np.ndarray]:
        """``{"score": float32 [N]}``: typicality among the candidates of the cluster."""
        found = pool.clusters(self._clustering())
        share = shares(pool, found.assignment >= 0, 0, self.text_only, seed)
        assignment = np.where(share.candidates, found.assignment, -1)
        members = members_of(assignment, len(found.centroids))
        return {"score": typicality(pool.signal(HiddenLast()), members, self.neighbors)}

    def select(self, pool: Pool, k: int, seed: int) -> Selection:
        """The first ``k`` rows in turn, and the share of text-only rows."""
        typical = pool.scored(self, seed)["score"]
        assignment = pool.clusters(self._clustering()).assignment
        share = shares(pool, assignment >= 0, k, self.text_only, seed)
        order = by_cluster_turns(typical, assignment, self.smallest)
        rows = order[: share.k]
        return Selection(
            rows=np.concatenate([rows, share.text]),
            scores=typical,
            ranking=order,
            facts={"clusters_that_gave": len(np.unique(assignment[rows])), **share.facts()},
        )

    def _clustering(self) -> Clustering:
        return Clustering(HiddenLast(), self.clusters, self.iterations, self.cluster_seed)
