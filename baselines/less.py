"""LESS: the rows whose gradients, as Adam would step along them, help a target task most.

1. The target is finetuned on ``warmup`` of the pool for some epochs; adapter and Adam's moments are
   kept after each.
2. At each of these c: of every row the step that Adam would take with it as the next batch,
   Γ = (0.9 m + 0.1 g) / sqrt(0.999 v + 0.001 g² + 1e-8) over the LoRA parameters; of every target
   row the plain gradient; both sketched and of unit length.
3. Influence on a task: sum over c of η_c times the mean cosine to the task's rows, η_c the mean
   learning rate up to c as a share of the sum. Of several tasks, and of subtasks, the largest
   counts; the rows of largest influence are taken.

From: Xia et al. 2024 ("LESS", ICML; MIT), by a specification of its code: 5 %, four epochs, rank
128 on q, k, v and o, learning rate 2e-5 falling linearly, batch 32, 8,192 random signs.

Ours differs. Checkpoints are shares of the pool, where the code names step numbers, which hold for
one number of GPUs; η is read from the warm-up's own log, where the code has it typed in. Moments
are found by parameter name. The gradient of a row is that of its own mean loss, however it was
batched. The decoder's attention is adapted, as there; rank, rate and batch are the run's recipe
with ``recipe`` on top: those of the paper are ``method.recipe={lr: 2e-5, rank: 128, alpha: 512,
dropout: 0.1, global_batch: 32}``.

``gradients_of: representatives`` (cluster-LESS, by a specification of DataFlex, 64 rows a cluster):
rows are clustered by their mean last states, the gradients of the ``representatives`` rows nearest
to each centroid are taken, and a row counts as these do in the mean: a twentieth of the cost.
Inside a cluster rows nearer to the centroid come first.

Rows: text-only examples are scored like all others (``keep``, as released), or get their share at
random (``quota``). Rows whose gradient is zero or not finite are not usable.

Cost: a finetuning on 5 % for four epochs, shared between runs, and for each checkpoint a forward
and backward pass over the pool; pictures are read once for all of them.

Published for text alone: 5 % of 270,000 rows beat all of them on MMLU, TyDiQA and BBH. In ICONS's
comparison (LLaVA-665K, 20 %) the largest over tasks is 96.1, its votes 98.6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from baselines.influence import check_share, influences, task_means, warm_up
from baselines.ranking import (
    TEXT_ONLY,
    TextOnly,
    check_choice,
    check_positive,
    shares,
)
from coincide.features.signals.gradients import Gradients
from coincide.features.signals.hidden_mean import HiddenMean
from coincide.ops.clusters import members_of
from coincide.ops.products import as_float64
from coincide.ops.sketch import SketchKind
from coincide.schema import (
    Clustering,
    Need,
    Pool,
    Selection,
    SubsetOf,
    Targets,
    TunedSignal,
    WarmUp,
)


@dataclass(frozen=True)
class Representatives:
    """The ``count`` rows nearest to the centroid of every cluster."""

    clusters: int
    count: int = 3
    name: str = "representatives"
    uses_seed: ClassVar[bool] = False
    fixed_size: ClassVar[bool] = True

    def needs(self) -> Sequence[Need]:
        """The clusters."""
        return (clustering(self.clusters),)

    def select(self, pool: Pool, k: int, seed: int) -> Selection:
        """Those rows, cluster by cluster."""
        members, order = nearest_first(pool, self.clusters)
        return Selection(np.concatenate([order[m][: self.count] for m in members]))


def clustering(clusters: int) -> Clustering:
    """The clusters of rows by the mean of their last states."""
    return Clustering(HiddenMean(), clusters)


def nearest_first(pool: Pool, clusters: int) -> tuple[list[np.ndarray], np.ndarray]:
    """The usable rows, int64, in an order in which those of a cluster nearer to its centroid come
    first, and the places of each cluster in it."""
    found = pool.clusters(clustering(clusters))
    rows = np.flatnonzero(pool.usable & (found.assignment >= 0))
    cosine = np.empty(len(rows))
    for start in range(0, len(rows), 4096):
        here = rows[start : start + 4096]
        x = as_float64(pool.signal(HiddenMean())[here])
        x /= np.linalg.norm(x, axis=1, keepdims=True).clip(1e-30)
        cosine[start : start + len(here)] = np.einsum(
            "nd,nd->n", x, as_float64(found.centroids[found.assignment[here]])
        )
    order = rows[np.lexsort((rows, -cosine))]
    members = members_of(found.assignment[order], clusters)
    return [m for m in members if len(m)], order


@dataclass(frozen=True)
class Less:
    """Takes the rows of largest influence on any target task."""

    warmup: float = 0.05
    at: Sequence[float] = (0.05, 0.1, 0.15, 0.2)
    kind: Literal["adam", "sgd"] = "adam"
    projection: SketchKind = "hashed"
    dimension: int = 8192
    recipe: Mapping[str, Any] | None = None
    gradients_of: Literal["all", "representatives"] = "all"
    clusters: int = 100
    representatives: int = 3
    text_only: TextOnly = "keep"
    name: str = "less"
    fixed_size: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "at", tuple(self.at))
        check_choice(self.name, "kind", self.kind, ("adam", "sgd"))
        check_choice(self.name, "gradients_of", self.gradients_of, ("all", "representatives"))
        check_choice(self.name, "text_only", self.text_only, TEXT_ONLY)
        check_share(self.name, warmup=self.warmup)
        check_positive(self.name, representatives=self.representatives, clusters=self.clusters)

    @property
    def uses_seed(self) -> bool:
        """Only the quota of text-only rows is drawn."""
        return self.text_only == "quota"

    def needs(self) -> Sequence[Need]:
        """The warm-up, and at each of its checkpoints the gradients of rows and target rows."""
        numbers = range(len(self.at))
        targets = [Targets(self._signal(c, "sgd")) for c in numbers]
        if self.gradients_of == "all":
            return self._warmup(), *(self._signal(c) for c in numbers), *targets
        rows = [TunedSignal(self._subset(), self._signal(c)) for c in numbers]
        return self._warmup(), clustering(self.clusters), *rows, *targets

    def score_config(self, seed: int) -> dict[str, Any]:
        """Whose gradients are taken."""
        names = ("gradients_of", "clusters", "representatives")
        few = {name: getattr(self, name) for name in names}
        return few if self.gradients_of == "representatives" else {}

    def score(self, pool: Pool, seed: int) -> dict[str, np.ndarray]:
        """``score`` float32 [N], the largest influence on a task, and ``influence`` float64 [N, T];
        NaN for rows without.
        """
        rows, whole, tasks = self._influence(pool)
        found = np.full((len(pool.examples), int(tasks.max()) + 1), np.nan)
        for task in range(found.shape[1]):
            found[rows, task] = whole[:, tasks == task].max(axis=1)
        return {"score": found.max(axis=1).astype(np.float32), "influence": found}

    def select(self, pool: Pool, k: int, seed: int) -> Selection:
        """The ``k`` rows of largest influence; ties by nearness to the centroid, then by row."""
        score = pool.scored(self, seed)["score"]
        share = shares(pool, ~np.isnan(score), k, self.text_only, seed)
        rows = np.flatnonzero(share.candidates)
        if self.gradients_of == "representatives":
            _, order = nearest_first(pool, self.clusters)
            rows = order[share.candidates[order]]
        order = rows[np.argsort(-score[rows], kind="stable")]
        kept = [asdict(each) for each in pool.warmup(self._warmup())]
        return Selection(
            rows=np.concatenate([order[: share.k], share.text]),
            scores=np.where(share.candidates, score, np.float32(np.nan)),
            ranking=order,
            facts={"checkpoints": kept, "text_only": self.text_only, **share.facts()},
        )

    def _influence(self, pool: Pool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The rows that have an influence, that on each subtask float64 [n, S], and the subtasks'
        tasks int [S].
        """
        kept = pool.warmup(self._warmup())
        total = sum(each.learning_rate for each in kept)
        rows = np.flatnonzero(pool.usable)
        whole = np.zeros(0)
        for number, checkpoint in enumerate(kept):
            targets = pool.targets(Targets(self._signal(number, "sgd")))
            _, means, tasks = task_means(targets, self.name)
            each = np.arange(len(means))
            if self.gradients_of == "all":
                part = influences(pool.signal(self._signal(number)), rows, means, each)
            else:
                x = pool.tuned(TunedSignal(self._subset(), self._signal(number)))
                rows, part = self._of_clusters(pool, x, means)
            part = part * (checkpoint.learning_rate / total)
            whole = whole + part if number else part
        return rows, whole, tasks

    def _of_clusters(
        self, pool: Pool, x: np.ndarray, means: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The rows of clusters with a representative that has a gradient, and the mean influence
        of these.
        """
        members, order = nearest_first(pool, self.clusters)
        rows, found = [], []
        for places in members:
            mine = order[places]
            known = mine[~np.isnan(x[mine]).any(axis=1)]
            if len(known):
                part = influences(x, known, means, np.arange(len(means))).mean(axis=0)
                rows.append(mine)
                found.append(np.broadcast_to(part, (len(mine), len(part))))
        return np.concatenate(rows), np.concatenate(found)

    def _subset(self) -> SubsetOf:
        return SubsetOf(Representatives(self.clusters, self.representatives))

    def _warmup(self) -> WarmUp:
        own = {"epochs": 4, "schedule": "linear", "linears": "attention"}
        recipe = {**own, **(self.recipe or {})}
        return warm_up(self.warmup, self.at, recipe)

    def _signal(self, number: int, kind: Literal["adam", "sgd"] | None = None) -> Gradients:
        kind = kind or self.kind
        return Gradients(self._warmup(), number, self.projection, self.dimension, kind)
