"""How well the reference model predicts the answers of a row without seeing its images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from coincide.features.forward.contract import RowVariant
from coincide.features.passes.reference import ReferenceSignal

if TYPE_CHECKING:
    import torch

    from coincide.features.forward.contract import Captured


@dataclass(frozen=True)
class TokenScoresBlind(ReferenceSignal):
    """Mean negative log-likelihood in nats of the answer tokens without the images: [N, 1].

    The tokens of an image are removed, so that positions close up
    (``coincide.features.forward.variants``). For a row without an image it equals ``nll`` of
    ``token_scores``, bit for bit if both come from one pass. NaN for a row without answer tokens.
    """

    name: ClassVar[str] = "token_scores_blind"
    dtype: ClassVar[str] = "float32"
    last_layer: ClassVar[bool] = True
    nan_allowed: ClassVar[bool] = True
    variant: ClassVar[RowVariant] = "blind"
    answers_only: ClassVar[bool] = True

    def width(self, hidden: int) -> int:
        return 1

    def read(self, captured: Captured) -> torch.Tensor:
        return answers_nll(captured)


def answers_nll(captured: Captured) -> torch.Tensor:
    """Mean negative log-likelihood in nats of the answer tokens, float64 [B, 1]."""
    from coincide.ops.scores import perplexity

    return perplexity(*captured.answer_logits()).double().unsqueeze(1)
