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
from typing import Any, ClassVar

import numpy as np

from baselines.ranking import (
    DIRECTIONS,
    TEXT_ONLY,
    Direction,
    TextOnly,
    check_choice,
    select_by_score,
)
from coincide.features.signals.grand import GradientNorm
from coincide.schema import Need, Pool, Selection


@dataclass(frozen=True)
class Grand:
    """Ranks by the norm of the last layer's gradient and keeps a window of the ranking."""

    direction: Direction = "high"
    text_only: TextOnly = "keep"
    name: str = "grand"
    fixed_size: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_choice(self.name, "direction", self.direction, DIRECTIONS)
        check_choice(self.name, "text_only", self.text_only, TEXT_ONLY)

    @property
    def uses_seed(self) -> bool:
        """Whether the run's seed matters: only for the random quota of text-only rows."""
        return self.text_only == "quota"

    def needs(self) -> Sequence[Need]:
        """The gradient norm, from the reference pass."""
        return (GradientNorm(),)

    def score_config(self, seed: int) -> dict[str, Any]:
        """Nothing besides the signal."""
        return {}

    def score(self, pool: Pool, seed: int) -> dict[str, np.ndarray]:
        """``{"score": float32 [N]}``: the norm; NaN for rows without answer tokens."""
        return {"score": pool.signal(GradientNorm())[:][:, 0]}

    def select(self, pool: Pool, k: int, seed: int) -> Selection:
        """The ``k`` rows in the window of the ranking that ``direction`` names."""
        score = pool.scored(self, seed)["score"]
        return select_by_score(pool, score, k, self.direction, self.text_only, seed)
