"""XMAS: rows whose attention to the image moves alike in training are alike; of each kind a few.

1. The target is finetuned on the pool; adapters are kept at the shares ``at`` of it.
2. At each, of every row: the attention weights of the text to the image tokens, mean over heads,
   summed over ``layers``; the sum of their five largest singular values. Over the checkpoints this
   is the row's trajectory, and the sum of its steps' sizes its instability.
3. Trajectories are clustered (k-means, Euclidean). Clusters are visited by ascending size, those of
   two rows or fewer at the end; each gives an even part of what is left, the most stable rows
   first. Text-only rows, which have no such attention, are one more cluster, whose rows are drawn
   at random.

From: XMAS, by a specification of its code: TinyLLaVA finetuned in full for an epoch as a proxy,
about 104 checkpoints, K 1,000.

Ours differs. The proxy is the run's target with LoRA, at as many checkpoints as ``at`` names.
Weights are those that the model has: the code takes products of whole projections, without heads,
rotation or mask, passes queries and keys in swapped order, and has the positions of one template
typed in. Small clusters, which the code drops, come last, so that every budget can be met; at most
one cluster for ``least_rows`` rows.

Rows: text-only examples are a cluster of their own (``cluster``, as released), get their share at
random (``quota``), or are left out (``drop``). Rows without an answer are never selected.

Cost: a finetuning on the whole pool, shared between budgets and seeds, and a forward pass for each
checkpoint, with attention weights.

Published: no loss at 50 % of LLaVA-665K and 15 % of Vision-Flan (its abstract); 97.3 at 15 % of
LLaVA-665K in VisNec's table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from baselines.influence import warm_up
from baselines.ranking import check_choice, check_positive, has_answer, shares
from coincide.features.signals.attention_spectrum import AttentionSpectrum
from coincide.schema import Need, Pool, Selection


@dataclass(frozen=True)
class Xmas:
    """Takes the most stable rows of every cluster of trajectories."""

    layers: Sequence[int]
    at: Sequence[float] = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
    clusters: int = 1000
    iterations: int = 100
    cluster_seed: int = 1234
    least_rows: int = 10
    recipe: Mapping[str, Any] | None = None
    text_only: Literal["cluster", "quota", "drop"] = "cluster"
    name: str = "xmas"
    fixed_size: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "at", tuple(self.at))
        object.__setattr__(self, "layers", tuple(self.layers))
        check_choice(self.name, "text_only", self.text_only, ("cluster", "quota", "drop"))
        check_positive(
            self.name, clusters=self.clusters, iterations=self.iterations,
            least_rows=self.least_rows,
        )  # fmt: skip

    @property
    def uses_seed(self) -> bool:
        """Only text-only rows are drawn."""
        return self.text_only != "drop"

    def needs(self) -> Sequence[Need]:
        """The singular values at each checkpoint."""
        warmed = warm_up(1.0, self.at, self.recipe)
        return [AttentionSpectrum(warmed, i, self.layers) for i in range(len(self.at))]

    def score_config(self, seed: int) -> dict[str, Any]:
        """How trajectories are clustered."""
        names = ("clusters", "iterations", "cluster_seed", "least_rows")
        return {name: getattr(self, name) for name in names}

    def score(self, pool: Pool, seed: int) -> dict[str, np.ndarray]:
        """``score``: the instability float32 [N]; ``trajectory`` float64 [N, T]; NaN for rows
        without an image. ``cluster`` int64 [N], -1 for these.
        """
        values = [np.asarray(pool.signal(need)[:], np.float64) for need in self.needs()]  # type: ignore[arg-type]
        trajectory = np.stack([each.sum(axis=1) for each in values], axis=1)
        trajectory[~pool.usable] = np.nan
        rows = np.flatnonzero(~np.isnan(trajectory).any(axis=1))
        cluster = np.full(len(trajectory), -1, np.int64)
        cluster[rows] = self._clusters(trajectory[rows])
        instability = np.abs(np.diff(trajectory, axis=1)).sum(axis=1)
        instability[np.isnan(trajectory).any(axis=1)] = np.nan
        return {
            "score": instability.astype(np.float32),
            "trajectory": trajectory,
            "cluster": cluster,
        }

    def select(self, pool: Pool, k: int, seed: int) -> Selection:
        """The most stable rows of each cluster, and text-only rows at random."""
        scored = pool.scored(self, seed)
        score, cluster = scored["score"], scored["cluster"].copy()
        policy = "drop" if self.text_only == "cluster" else self.text_only
        share = shares(pool, ~np.isnan(score), k, policy, seed)
        turn = score.astype(np.float64)
        able = share.candidates.copy()
        if self.text_only == "cluster":
            text = [not e.images and has_answer(e) for e in pool.examples]
            texts = np.flatnonzero(pool.usable & np.array(text, bool))
            cluster[texts] = cluster.max(initial=-1) + 1
            turn[texts] = np.random.default_rng(seed).random(len(pool.examples))[texts]
            able[texts] = True
        rows = np.flatnonzero(able)
        chosen = by_turns(cluster[rows], turn[rows], share.k)
        return Selection(
            rows=np.concatenate([rows[chosen], share.text]),
            scores=np.where(share.candidates, score, np.float32(np.nan)),
            facts={
                "clusters": int(scored["cluster"].max(initial=-1)) + 1,
                "text_only": self.text_only,
                **share.facts(),
            },
        )

    def _clusters(self, trajectory: np.ndarray) -> np.ndarray:
        from sklearn.cluster import KMeans

        distinct = len(np.unique(trajectory, axis=0))
        count = min(self.clusters, distinct, max(1, len(trajectory) // self.least_rows))
        if count <= 1:
            return np.zeros(len(trajectory), np.int64)
        made = KMeans(count, n_init=1, max_iter=self.iterations, random_state=self.cluster_seed)
        found: np.ndarray = made.fit_predict(trajectory).astype(np.int64)
        return found


def by_turns(cluster: np.ndarray, turn: np.ndarray, k: int) -> np.ndarray:
    """Places of ``k`` rows, int64, or of all where there are fewer.

    Clusters of more than two rows are visited by ascending size, then the others; each gives what
    is left over the clusters left, rounded down and one at least, rows of the smallest ``turn``
    first. What is missing at the end comes from those with rows left, in the same order.
    """
    names, sizes = np.unique(cluster, return_counts=True)
    visits = names[np.lexsort((names, sizes, sizes <= 2))]
    order = {
        int(name): (rows := np.flatnonzero(cluster == name))[np.lexsort((rows, turn[rows]))]
        for name in names.tolist()
    }
    taken: list[np.ndarray] = []
    left = k
    while left > 0 and any(len(rows) for rows in order.values()):
        waiting = [name for name in visits.tolist() if len(order[name])]
        for place, name in enumerate(waiting):
            part = min(left, max(1, left // (len(waiting) - place)))
            taken.append(order[name][:part])
            left -= len(taken[-1])
            order[name] = order[name][part:]
    return np.concatenate(taken).astype(np.int64) if taken else np.empty(0, np.int64)
