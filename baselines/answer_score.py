"""What EL2N and perplexity share: rank by one score of the answer tokens, keep a window."""

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
from coincide.features.signals.token_scores import COLUMNS, TokenScores
from coincide.schema import Need, Pool, Selection


@dataclass(frozen=True)
class AnswerScore:
    """A method that differs from its siblings in ``column`` of ``token_scores`` alone."""

    direction: Direction = "middle"
    text_only: TextOnly = "keep"
    name: str = ""
    column: ClassVar[str]
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
        return (TokenScores(),)

    def score_config(self, seed: int) -> dict[str, Any]:
        """The score is a column of the signal."""
        return {"column": self.column}

    def score(self, pool: Pool, seed: int) -> dict[str, np.ndarray]:
        """The column, float32 [N]."""
        return {"score": pool.signal(TokenScores())[:][:, COLUMNS.index(self.column)]}

    def select(self, pool: Pool, k: int, seed: int) -> Selection:
        """The ``k`` rows of the window."""
        score = pool.scored(self, seed)["score"]
        return select_by_score(pool, score, k, self.direction, self.text_only, seed)
