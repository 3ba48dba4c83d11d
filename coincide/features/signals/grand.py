"""The norm of the gradient that a row gives the reference model's last layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from coincide.features.passes.reference import ReferenceSignal
from coincide.schema import UserError

if TYPE_CHECKING:
    import torch

    from coincide.features.forward.contract import Captured


@dataclass(frozen=True)
class GradientNorm(ReferenceSignal):
    """[N, 1]: norm of the gradient, by the weights of the output layer, of the mean negative
    log-likelihood of the answer tokens (``coincide.ops.scores.gradient_norm``): a forward pass
    gives it, no backward pass is run. NaN for a row without answer tokens.

    Weights that the output layer shares with the embedding count for the output alone. Raises
    :class:`UserError` for a model that caps its logits.
    """

    name: ClassVar[str] = "grand"
    dtype: ClassVar[str] = "float32"
    last_layer: ClassVar[bool] = True
    nan_allowed: ClassVar[bool] = True

    def width(self, hidden: int) -> int:
        return 1

    def read(self, captured: Captured) -> torch.Tensor:
        from coincide.ops.scores import gradient_norm

        scale = getattr(captured.head, "scale", 1.0)
        if scale is None:
            raise UserError(
                "grand is the gradient by the weights of the output layer, and this reference "
                "model caps what the layer gives. Choose another reference model or method."
            )
        logits, labels = captured.answer_logits()
        norm = gradient_norm(captured.answer_states(), logits, labels)
        return abs(scale) * norm.double().unsqueeze(1)
