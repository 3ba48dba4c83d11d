"""CoIDO: of every source what a scorer, trained for importance and diversity, finds hardest.

Stage 1 (``train.joint_scorer``): a small net S on f, CLIP's image and text embedding side by side,
and on scalar scores of a row, is trained together with the target on ``of_pool`` of the rows. In a
batch w is the softmax of S; the loss weighs the answers' losses by w as Self-Filter does (L1), adds
the spread of the mean w over clusters of f (L2), and learns how much each counts:

    L1 / σ1² + L2 / (2 σ2²) + log σ1 + log σ2

Stage 2: S scores all rows. Every source gets its share of the budget by its size, and gives its
rows of largest -S.

From: CoIDO, by a specification of its code (AGPL, not read): 20 % of LLaVA-665K, 20 clusters,
layers of 384, scalar scores CLIP score, ImageReward and a language model's 0 to 10.

What the specification leaves open, and how it is here: how the net joins its branches
(``train.joint_scorer`` has the formula); the standard deviation is that of all clusters in the
batch, 0 if there is one; which rows' clusters (spherical k-means of f over the part), batch and
rates (Self-Filter's).

Ours differs. The scalar score that is always there is the CLIP score; ImageReward, a language
model's or any other judge's come as columns of the table ``scores`` (csv or parquet: ``row`` or
``id``, and numbers), since their models and interfaces are not ours. All are scaled to [-1, 1] over
the pool, for training and scoring alike; the code trains on scaled values and scores raw ones. Rows
without a score have no difficulty, where the code has 0.5 and 5. The code clusters pieces of 5,000
rows apart, so that a cluster's number means another thing in each; here there is one clustering.
Quotas are whole by largest remainder, ties go to the lowest row.

Rows: text-only examples have no CLIP image and get their proportional share at random (``quota``)
or are left out (``drop``). Rows without an answer take no part and are never selected.

Cost: a full finetuning of the target on a fifth of the pool, and one CLIP pass; shared between
budgets and seeds. Published: 25 GPU hours, and an interface to a language model.

Published, LLaVA-1.5-7B: Rel. 98.2 at 20 % of LLaVA-665K; 97.7 at 15 % of it and 103.6 of
Vision-Flan, in VisNec's tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from baselines.influence import check_share
from baselines.pictures import sources_of
from baselines.quotas import apportion
from baselines.ranking import check_choice, check_positive, shares
from coincide.data.score_table import WANTED, read_columns
from coincide.features.signals.clip_image import ClipImage
from coincide.features.signals.clip_text import FORMS, ClipText
from coincide.schema import Example, JointDifficulty, Need, Pool, Selection, UserError


@dataclass(frozen=True)
class CoIdo:
    """Takes of every source the rows of largest difficulty."""

    text: Literal["dialogue", "question", "answer"] = "dialogue"
    of_pool: float = 0.2
    clusters: int = 20
    width: int = 384
    epochs: int = 1
    batch: int = 16
    lr: float = 2e-5
    stage1_seed: int = 1234
    scores: str | None = None
    text_only: Literal["quota", "drop"] = "quota"
    name: str = "coido"
    fixed_size: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_choice(self.name, "text", self.text, FORMS)
        check_choice(self.name, "text_only", self.text_only, ("quota", "drop"))
        check_share(self.name, of_pool=self.of_pool)
        check_positive(
            self.name, clusters=self.clusters, width=self.width, epochs=self.epochs,
            batch=self.batch, lr=self.lr,
        )  # fmt: skip
        if self.scores is not None and not Path(self.scores).is_file():
            raise UserError(f"method.scores={self.scores!r}: no such file; {WANTED}.")

    @property
    def uses_seed(self) -> bool:
        """Only the quota of text-only rows is drawn; stage 1 has its own seed."""
        return self.text_only == "quota"

    def key_config(self) -> dict[str, Any]:
        """The hash of the table instead of its path."""
        return {**asdict(self), "scores": self._sha256}

    @property
    def names_data(self) -> bool:
        """Whether there is a table, which names rows."""
        return self.scores is not None

    def check_data(self, examples: Sequence[Example]) -> None:
        """Raises UserError for a table of scores that does not fit the data."""
        if self.scores is not None:
            read_columns(Path(self.scores), examples)

    def needs(self) -> Sequence[Need]:
        """CLIP's embeddings, and the difficulty that stage 1 learns from them."""
        return *self._difficulty.signals, self._difficulty

    def score_config(self, seed: int) -> dict[str, Any]:
        """Nothing but the difficulty."""
        return {}

    def score(self, pool: Pool, seed: int) -> dict[str, np.ndarray]:
        """``score``: the difficulty, float32 [N], NaN for rows without."""
        return {"score": pool.difficulty(self._difficulty)}

    def select(self, pool: Pool, k: int, seed: int) -> Selection:
        """Of every source the rows of largest difficulty."""
        score = pool.scored(self, seed)["score"]
        share = shares(pool, ~np.isnan(score), k, self.text_only, seed)
        rows = np.flatnonzero(share.candidates)
        names, source = sources_of(pool.examples, rows)
        room = np.bincount(source, minlength=len(names))
        quota = apportion(room, room, share.k)
        order = np.lexsort((rows, -score[rows].astype(np.float64), source))
        place = np.arange(len(rows)) - np.searchsorted(source[order], source[order])
        table = {"rows": room, "quota": quota}
        return Selection(
            rows=np.concatenate([rows[order[place < quota[source[order]]]], share.text]),
            scores=np.where(share.candidates, score, np.float32(np.nan)),
            facts={"text_only": self.text_only, **share.facts()},
            tables={"sources": {"source": names, **{n: v.tolist() for n, v in table.items()}}},
        )

    @cached_property
    def _difficulty(self) -> JointDifficulty:
        return JointDifficulty(
            (ClipImage(), ClipText(self.text)), self.epochs, self.batch, self.lr, self.stage1_seed,
            self.of_pool, self.clusters, self.width, self.scores, self._sha256,
        )  # fmt: skip

    @cached_property
    def _sha256(self) -> str:
        from coincide.store import check_path
        from coincide.system.files import sha256_file

        if self.scores is None:
            return ""
        check_path(Path(self.scores))
        return sha256_file(Path(self.scores))
