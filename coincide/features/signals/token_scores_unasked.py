"""How well the reference model predicts the answers of a row without being asked the questions."""

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
class TokenScoresUnasked(ReferenceSignal):
    """Mean negative log-likelihood in nats of the answers, given the images but no question: [N,
    1].

    All answers of a conversation are joined by blanks into one, and only the images come before it;
    for a row without an image, nothing does. NaN for a row without answer tokens.
    """

    name: ClassVar[str] = "token_scores_unasked"
    dtype: ClassVar[str] = "float32"
    last_layer: ClassVar[bool] = True
    nan_allowed: ClassVar[bool] = True
    variant: ClassVar[RowVariant] = "unasked"
    answers_only: ClassVar[bool] = True

    def width(self, hidden: int) -> int:
        return 1

    def read(self, captured: Captured) -> torch.Tensor:
        return answers_nll(captured)
