"""The same with one masked token in the place of each image, as VisNec's code has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from coincide.features.forward.contract import RowVariant
from coincide.features.passes.reference import ReferenceSignal
from coincide.features.signals.token_scores_blind import answers_nll

if TYPE_CHECKING:
    import torch

    from coincide.features.forward.contract import Captured


@dataclass(frozen=True)
class TokenScoresMasked(ReferenceSignal):
    """Like :class:`TokenScoresBlind`, with one masked token in the place of each image: [N, 1].

    VisNec's released form. Only with templates of ours; ``chat`` is refused.
    """

    name: ClassVar[str] = "token_scores_masked"
    dtype: ClassVar[str] = "float32"
    last_layer: ClassVar[bool] = True
    nan_allowed: ClassVar[bool] = True
    variant: ClassVar[RowVariant] = "masked"
    answers_only: ClassVar[bool] = True

    def width(self, hidden: int) -> int:
        return 1

    def read(self, captured: Captured) -> torch.Tensor:
        return answers_nll(captured)
