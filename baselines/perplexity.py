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

from dataclasses import dataclass
from typing import ClassVar

from baselines.answer_score import AnswerScore


@dataclass(frozen=True)
class Perplexity(AnswerScore):
    """Ranks by the mean negative log-likelihood of the answers and keeps a window of the
    ranking.
    """

    name: str = "perplexity"
    column: ClassVar[str] = "nll"
