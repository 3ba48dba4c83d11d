"""GraNd: how hard an example pulls at the model's last layer.

Score, with l_i the mean negative log-likelihood of the answer tokens T_i of example i and W the
weights of the output layer:

    s_i = ‖∂l_i / ∂W‖,   ∂l_i / ∂W = 1/|T_i| sum over t in T_i of (p_t - e_{y_t}) h_tᵀ

in closed form from logits and hidden states, so that no backward pass is run.

From: Paul et al. 2021 (GraNd and EL2N), who take the gradient of all weights of a classifier early
in training, averaged over ten networks, and keep the largest. They bound it by the error of the
prediction, EL2N; the last layer's gradient weights that error by the states, and adds the tokens of
an answer with their directions instead of their lengths.

Ours differs: one model, already trained; the last layer alone. Tables of 2026 that print a GraNd
row do not say which layers it is of.

Direction: ``high``, as in the paper. The mean over an answer shrinks with its length, so that high
prefers short answers.

Rows: text-only examples are scored like all others; rows without answer tokens never selected.

Cost: the reference pass, and for each row of n answer tokens n² (V + H) products; then a sort.

Published: no row that names its setting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from baselines.answer_score import AnswerScore
from baselines.ranking import Direction
from coincide.features.signals.grand import GradientNorm
from coincide.schema import Need, Pool


@dataclass(frozen=True)
class Grand(AnswerScore):
    """Ranks by the norm of the last layer's gradient and keeps a window of the ranking."""

    direction: Direction = "high"
    name: str = "grand"
    column: ClassVar[str] = "gradient_norm"

    def needs(self) -> Sequence[Need]:
        """The gradient norm, from the reference pass."""
        return (GradientNorm(),)

    def score(self, pool: Pool, seed: int) -> dict[str, np.ndarray]:
        """``{"score": float32 [N]}``: the norm; NaN for rows without answer tokens."""
        return {"score": pool.signal(GradientNorm())[:][:, 0]}
