"""IFD: how much of an answer's difficulty the question leaves.

Score, with a_i the mean negative log-likelihood of the answers of example i given its image and its
questions, and b_i that of the same answers joined into one, given the image alone:

    IFD_i = a_i / b_i

Near 1 the question does not help to answer, small where it does. Highest first, but those of 1 and
more last, the smallest of them first: there the question makes the answer less likely, and the two
do not belong together.

From: Li et al. 2023 ("From Quantity to Quality"), for text, where both losses are of text and the
model is first trained a little on the pool itself; that paper leaves out what is above 1. As a
baseline for vision-language models in DICS and VisNec's table, which do not say what becomes of the
image. Ours keeps it in both (``token_scores_unasked``), so that the score is about the question;
the model is the reference model as it is.

Rows: text-only examples are scored like all others, their answer without a question standing alone;
rows without answer tokens are never selected.

Cost: the reference pass and one more without the question, which shares the image's prefix.

Published: 15 % of LLaVA-665K on LLaVA-1.5-7B: Rel. 92.1 (VisNec's table, random 94.2), of
Vision-Flan 91.6 (96.7); DICS at 25 %, own harness: 87.6 (96.7), of Vision-Flan 93.1 (96.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from baselines.ranking import TEXT_ONLY, TextOnly, check_choice, shares
from coincide.features.signals.token_scores import COLUMNS, TokenScores
from coincide.features.signals.token_scores_unasked import TokenScoresUnasked
from coincide.schema import Need, Pool, Selection

ABOVE = ("last", "keep")


def ratio(asked: np.ndarray, unasked: np.ndarray) -> np.ndarray:
    """a / b, float32 [N]; NaN where either is NaN or b is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.asarray(asked, np.float64) / np.asarray(unasked, np.float64)
    return np.where(np.isfinite(found), found, np.nan).astype(np.float32)


def highest_first(score: np.ndarray, above: Literal["last", "keep"]) -> np.ndarray:
    """Rows with a score, int64, in the order in which they are taken; ties to the lowest row."""
    rows = np.flatnonzero(~np.isnan(score))
    helped = (score[rows] < 1) | (above == "keep")
    return rows[np.lexsort((rows, np.where(helped, -score[rows], score[rows]), ~helped))]


@dataclass(frozen=True)
class Ifd:
    """Takes the rows whose question helps least, but does help."""

    above_one: Literal["last", "keep"] = "last"
    text_only: TextOnly = "keep"
    name: str = "ifd"
    fixed_size: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_choice(self.name, "above_one", self.above_one, ABOVE)
        check_choice(self.name, "text_only", self.text_only, TEXT_ONLY)

    @property
    def uses_seed(self) -> bool:
        """Whether the run's seed matters: only for the random quota of text-only rows."""
        return self.text_only == "quota"

    def needs(self) -> Sequence[Need]:
        """The loss of the answers with the question and without it."""
        return TokenScores(), TokenScoresUnasked()

    def score_config(self, seed: int) -> dict[str, Any]:
        """Nothing besides the two losses."""
        return {}

    def score(self, pool: Pool, seed: int) -> dict[str, np.ndarray]:
        """``{"score": float32 [N]}``: IFD."""
        asked = pool.signal(TokenScores())[:][:, COLUMNS.index("nll")]
        return {"score": ratio(asked, pool.signal(TokenScoresUnasked())[:][:, 0])}

    def select(self, pool: Pool, k: int, seed: int) -> Selection:
        """The first ``k`` rows of the ranking, and the share of text-only rows."""
        score = pool.scored(self, seed)["score"]
        share = shares(pool, ~np.isnan(score), k, self.text_only, seed)
        judged = np.where(share.candidates, score, np.float32(np.nan))
        order = highest_first(judged, self.above_one)
        rows = order[: share.k]
        return Selection(
            rows=np.concatenate([rows, share.text]),
            scores=judged,
            ranking=order,
            facts={"chosen_above_one": int((judged[rows] >= 1).sum()), **share.facts()},
        )
