"""The mean of the last hidden states of a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from coincide.features.passes.reference import ReferenceSignal

if TYPE_CHECKING:
    import torch

    from coincide.features.forward.contract import Captured


@dataclass(frozen=True)
class HiddenMean(ReferenceSignal):
    """Mean [N, H] of the hidden states over all real tokens, image tokens included, after the final
    norm.
    """

    name: ClassVar[str] = "hidden_mean"
    dtype: ClassVar[str] = "float16"
    last_layer: ClassVar[bool] = True

    def read(self, captured: Captured) -> torch.Tensor:
        mask = captured.attention_mask.unsqueeze(-1)
        return (captured.hidden.double() * mask).sum(dim=1) / mask.sum(dim=1)
