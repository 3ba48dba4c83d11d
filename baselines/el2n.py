"""EL2N: how far the predicted distribution is from the answer, token by token.

Score, for the answer tokens T_i of example i and the reference model's probabilities p_t:

    s_i = mean over t in T_i of ‖p_t - onehot(y_t)‖₂, in [0, √2]

From: Paul et al. 2021 (data diet), which averages the error of about ten classifiers early in
training and keeps the highest. The form for vision-language models is that of COINCIDE's released
baseline (``score_el2n.py``): one converged model, tokens averaged. It is not the same quantity.

Direction: ``middle``. COINCIDE's figure speaks of a middle 20 % window and its training code has
the option; no EL2N run script was released, so this is the best reading, not a certainty.

Rows: text-only examples are scored like all others; rows without answer tokens never selected.
Ours differs: float32 scores, where the released float16 leave ties by the hundred.

Cost: the reference pass, then a sort.

Published, LLaVA-665K 20 % on LLaVA-1.5-7B: Rel. 92.0 over ten benchmarks (89.8 printed with
MM-Vet). At about 10 % COMPACT measured 97.1 where random had 95.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from baselines.answer_score import AnswerScore


@dataclass(frozen=True)
class El2n(AnswerScore):
    """Ranks by EL2N and keeps a window of the ranking."""

    name: str = "el2n"
    column: ClassVar[str] = "el2n"
