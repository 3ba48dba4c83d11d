"""Perplexity: how surprised the reference model is by the answers.

Score, for the answer tokens T_i of example i:

    l_i = mean over t in T_i of -log p_t(y_t),   PPL_i = exp(l_i)

Ranked by l, in nats: the same order as by PPL, and it cannot overflow. Answers only, all turns.

From: Marion et al. 2023, for pretraining text, where the middle of the ranking was best; as a
baseline for vision-language models in COINCIDE, which releases no code for it.

Direction: ``middle``, as DICS states ("midrange, following prior work"); COINCIDE's own is not
known. Reference model: COINCIDE presumably its TinyLLaVA-2B, DICS LLaVA-1.5-7B.

Rows: text-only examples are scored like all others; rows without answer tokens never selected.

Cost: the reference pass, then a sort.

Published, LLaVA-665K 20 % on LLaVA-1.5-7B: Rel. 91.6; DICS at 25 %: 89.9. Below random in every
study but COMPACT's at about 10 % (96.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from baselines.ranking import (
    DIRECTIONS,
    TEXT_ONLY,
    Direction,
    TextOnly,
    check_choice,
    select_by_score,
)
from coincide.features.signals import SCORES, TOKEN_SCORES
from coincide.schema import Need, Pool, Selection


@dataclass(frozen=True)
class Perplexity:
    """Rank by the answers' mean negative log-likelihood and keep a window of the ranking."""

    direction: Direction = "middle"
    text_only: TextOnly = "keep"
    name: str = "perplexity"
    fixed_size: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_choice(self.name, "direction", self.direction, DIRECTIONS)
        check_choice(self.name, "text_only", self.text_only, TEXT_ONLY)

    @property
    def uses_seed(self) -> bool:
        """Only the quota of text-only rows is drawn."""
        return self.text_only == "quota"

    def needs(self) -> Sequence[Need]:
        """The scores of the answer tokens."""
        return (SCORES,)

    def select(self, pool: Pool, k: int, seed: int) -> Selection:
        """The ``k`` rows of the window."""
        score = pool.signal(SCORES)[:][:, TOKEN_SCORES.index("nll")]
        return select_by_score(pool, score, k, self.direction, self.text_only, seed)
