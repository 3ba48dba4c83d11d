"""Length: the longest answers. The baseline that every score has to beat.

Score: s_i, the length of all answers of example i that are to be learnt together, in ``unit``:

- ``characters``: of the text, blanks around an answer left out; costs nothing;
- ``words``: between blanks; costs nothing;
- ``tokens``: of the reference model, as it reads the row; takes its pass.

From: Zhao et al. 2024 ("Long is more for alignment"), for text: the thousand longest answers match
sets chosen by far dearer methods. As a baseline for vision-language models in DICS, which does not
say in which unit.

Direction: ``high``. An answer of a VQA row is one word and many rows have the same score: ties go
by row index, so that a budget which cuts through them takes what comes first in the file.

Rows: text-only examples compete with all others, and in LLaVA-665K win, since their answers are
written out (``keep``); ``quota`` gives them their proportional share at random, ``drop`` none. Rows
without an answer are never selected.

Cost: none beyond reading the file; ``tokens``: the reference pass.

Published: DICS, 25 % of LLaVA-665K, own harness: 88.8 (random 96.7); of Vision-Flan: 91.5 (96.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from baselines.ranking import (
    DIRECTIONS,
    TEXT_ONLY,
    Direction,
    TextOnly,
    check_choice,
    preference,
    shares,
)
from coincide.features.signals.token_scores import COLUMNS, TokenScores
from coincide.schema import Example, Need, Pool, Selection

Unit = Literal["characters", "words", "tokens"]
UNITS = ("characters", "words", "tokens")


def length(example: Example, unit: Unit) -> int:
    """Number of ``characters`` or ``words`` in the answers that are to be learnt."""
    answers = [turn.text for turn in example.turns if turn.role == "gpt" and turn.learn]
    if unit == "words":
        return sum(len(answer.split()) for answer in answers)
    return sum(len(answer.strip()) for answer in answers)


@dataclass(frozen=True)
class Length:
    """Ranks by the length of the answers and keeps one end of the ranking."""

    unit: Unit = "characters"
    direction: Direction = "high"
    text_only: TextOnly = "keep"
    name: str = "length"
    fixed_size: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_choice(self.name, "unit", self.unit, UNITS)
        check_choice(self.name, "direction", self.direction, DIRECTIONS)
        check_choice(self.name, "text_only", self.text_only, TEXT_ONLY)

    @property
    def uses_seed(self) -> bool:
        """Whether the run's seed matters: only for the random quota of text-only rows."""
        return self.text_only == "quota"

    def needs(self) -> Sequence[Need]:
        """No signals; for ``tokens`` the token count from the reference pass."""
        return (TokenScores(),) if self.unit == "tokens" else ()

    def score_config(self, seed: int) -> dict[str, Any]:
        """The unit."""
        return {"unit": self.unit}

    def score(self, pool: Pool, seed: int) -> dict[str, np.ndarray]:
        """``{"score": float32 [N]}``: the length."""
        if self.unit == "tokens":
            return {"score": pool.signal(TokenScores())[:][:, COLUMNS.index("answer_tokens")]}
        found = [length(example, self.unit) for example in pool.examples]
        return {"score": np.array(found, np.float32)}

    def select(self, pool: Pool, k: int, seed: int) -> Selection:
        """The ``k`` rows at the end of the ranking that ``direction`` names; of equal ones the
        first.
        """
        score = pool.scored(self, seed)["score"]
        share = shares(pool, score > 0, k, self.text_only, seed)
        judged = np.where(share.candidates, score, np.float32(np.nan))
        order = preference(judged, self.direction)
        if self.direction == "high":  # stable the other way round: ties to the lowest row
            order = order[np.lexsort((order, -judged[order]))]
        return Selection(
            rows=np.concatenate([order[: share.k], share.text]),
            scores=judged,
            ranking=order,
            facts={"unit": self.unit, "direction": self.direction, **share.facts()},
        )
