"""How well the reference model predicts the answer tokens of a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from coincide.features.passes.reference import ReferenceSignal

if TYPE_CHECKING:
    import torch

    from coincide.features.forward.contract import Captured

COLUMNS = ("el2n", "margin", "nll", "answer_tokens")
"""EL2N; mean margin p(y) - max p(not y), COINCIDE's AUM; mean negative log-likelihood in nats;
number of answer tokens."""


@dataclass(frozen=True)
class TokenScores(ReferenceSignal):
    """EL2N, margin, loss and number of the answer tokens: [N, 4], columns ``COLUMNS``.

    Computed by ``coincide.ops.scores``. The first three are NaN for a row without answer tokens.
    """

    name: ClassVar[str] = "token_scores"
    dtype: ClassVar[str] = "float32"
    last_layer: ClassVar[bool] = True
    nan_allowed: ClassVar[bool] = True

    def width(self, hidden: int) -> int:
        return len(COLUMNS)

    def read(self, captured: Captured) -> torch.Tensor:
        import torch

        from coincide.ops.scores import aum, el2n, perplexity

        logits, labels = captured.answer_logits()
        columns = [el2n(logits, labels), aum(logits, labels), perplexity(logits, labels)]
        count = (captured.labels[:, 1:] != -100).sum(dim=1)
        return torch.stack([*columns, count], dim=1).double()
