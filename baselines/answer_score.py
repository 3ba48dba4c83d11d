"""Common part of EL2N and perplexity: rank by a score of the answer tokens, keep a window."""

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
    """Ranks by one ``column`` of the signal ``token_scores``; subclasses name the column."""

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
        """Whether the run's seed matters: only for the random quota of text-only rows."""
        return self.text_only == "quota"

    def needs(self) -> Sequence[Need]:
        """The signal ``token_scores`` of the reference model."""
        return (TokenScores(),)

    def score_config(self, seed: int) -> dict[str, Any]:
        """What the score depends on besides the signal: the column."""
        return {"column": self.column}

    def score(self, pool: Pool, seed: int) -> dict[str, np.ndarray]:
        """``{"score": float32 [N]}``: the column; NaN for rows without answer tokens."""
        return {"score": pool.signal(TokenScores())[:][:, COLUMNS.index(self.column)]}

    def select(self, pool: Pool, k: int, seed: int) -> Selection:
        """The ``k`` rows in the window of the ranking that ``direction`` names."""
        score = pool.scored(self, seed)["score"]
        return select_by_score(pool, score, k, self.direction, self.text_only, seed)
