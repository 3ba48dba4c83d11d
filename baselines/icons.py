"""ICONS: the rows that many target tasks count among their most helpful ones.

1. A short finetuning of the target on the pool, its adapter kept when ``warmup`` of the rows have
   passed.
2. The gradient of every row's loss, and of every target row's, by the LoRA parameters, sketched and
   of unit length. The influence of a row on a task is its mean cosine to the task's rows; of a task
   with subtasks (target sources ``task/part``) the largest.
3. A task votes for the ``vote`` rows of largest influence on it. The rows with most votes are
   taken.

From: Wu et al. 2025 ("ICONS: Influence Consensus", arXiv 2501.00654), by a specification of its
code: 500 steps of batch 128 on LLaVA-665K (9.6 %), plain gradients, 5,120 random signs, ten tasks.

Ours differs. There the vote's share and the budget are one number; here they are two, the budget
unless ``vote`` is set. Votes are few whole numbers, and an unstable sort cuts the ties (40 % of a
subset, if votes were independent); here ties go by the sum over tasks of percentile ranks, then by
the mean influence, then by the row. The code merges the adapter into the base and then wraps it
round again, so that its gradients are those of W + 2 s B A; here it counts once. There MME's rows
alone are read unnormalised, which changes nothing in the order of one subtask; here all have unit
length. ``projection: flat`` is the released dense matrix; ``hashed`` has the
same variance at one addition an entry (``coincide.ops.sketch``).

Rows: text-only examples are scored like all others (``keep``, as released), or get their share at
random (``quota``). Rows whose gradient is zero or not finite are not usable, named and counted.

Cost: a tenth of a finetuning on the whole pool, shared between budgets and seeds, and one forward
and backward pass over the pool and the target rows.

Published, LLaVA-665K 20 % on LLaVA-1.5-7B: Rel. 98.6; 97.1 at 15 % in VisNec's table, and below
random on LLaVA-OneVision in mmSSR's. Its targets are validation rows of the benchmarks themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from scipy.stats import rankdata

from baselines.influence import check_share, influences, task_means, warm_up
from baselines.ranking import TEXT_ONLY, TextOnly, check_choice, shares
from coincide.features.signals.gradients import Gradients
from coincide.ops.sketch import SketchKind
from coincide.schema import Need, Pool, Selection, Targets


@dataclass(frozen=True)
class Icons:
    """Takes the rows with most votes of the target tasks."""

    warmup: float = 0.096
    vote: float | None = None
    projection: SketchKind = "hashed"
    dimension: int = 8192
    recipe: Mapping[str, Any] | None = None
    text_only: TextOnly = "keep"
    name: str = "icons"
    fixed_size: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_choice(self.name, "text_only", self.text_only, TEXT_ONLY)
        check_share(self.name, warmup=self.warmup)
        if self.vote is not None:
            check_share(self.name, vote=self.vote)

    @property
    def uses_seed(self) -> bool:
        """Only the quota of text-only rows is drawn."""
        return self.text_only == "quota"

    def needs(self) -> Sequence[Need]:
        """The gradients of the pool's rows and of the target rows."""
        return self._signal(), Targets(self._signal())

    def score_config(self, seed: int) -> dict[str, Any]:
        """Nothing but the signals."""
        return {}

    def score(self, pool: Pool, seed: int) -> dict[str, np.ndarray]:
        """``score`` float32 [N], the mean over tasks of the influence, and ``influence`` float64
        [N, T] by task in the order of their names; NaN for rows that are not usable.
        """
        _, means, tasks = task_means(pool.targets(Targets(self._signal())), self.name)
        rows = np.flatnonzero(pool.usable)
        found = np.full((len(pool.examples), int(tasks.max()) + 1), np.nan)
        found[rows] = influences(pool.signal(self._signal()), rows, means, tasks)
        return {"score": found.mean(axis=1).astype(np.float32), "influence": found}

    def select(self, pool: Pool, k: int, seed: int) -> Selection:
        """The ``k`` rows with most votes, ties by the sum of percentile ranks, then by
        the mean influence, then by row.
        """
        scored = pool.scored(self, seed)
        names, _, _ = task_means(pool.targets(Targets(self._signal())), self.name)
        defined = ~np.isnan(scored["score"])
        share = shares(pool, defined, k, self.text_only, seed)
        rows = np.flatnonzero(share.candidates)
        part = self.vote if self.vote is not None else min(1.0, share.k / max(1, len(rows)))
        votes, ranks = count_votes(scored["influence"][rows], part)
        order = rows[np.lexsort((rows, -scored["score"][rows], -ranks, -votes))]
        judged = np.full(len(pool.examples), np.nan, np.float32)
        judged[rows] = votes + ranks / (ranks.max(initial=0.0) + 1)
        cut = np.sort(votes)[::-1][: share.k]
        return Selection(
            rows=np.concatenate([order[: share.k], share.text]),
            scores=judged,
            ranking=order,
            facts={
                "tasks": names,
                "vote": part,
                "votes": np.bincount(votes, minlength=len(names) + 1).tolist(),
                "of_the_last_tie": int((votes == cut[-1]).sum()) if len(cut) else 0,
                "text_only": self.text_only,
                **share.facts(),
            },
        )

    def _signal(self) -> Gradients:
        warmed = warm_up(1.0, [self.warmup], self.recipe)
        return Gradients(warmed, projection=self.projection, dimension=self.dimension)


def count_votes(influence: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Votes int64 [n], and the sum over tasks of the ranks 1 to n, float64 [n] (exact).

    ``influence`` [n, T]. A task votes for every row at or above the 1 - ``share`` quantile of its
    column (linear interpolation).
    """
    if not len(influence):
        return np.empty(0, np.int64), np.empty(0)
    least = np.quantile(influence, 1 - share, axis=0)
    votes = (influence >= least).sum(axis=1).astype(np.int64)
    return votes, rankdata(influence, method="average", axis=0).sum(axis=1)
