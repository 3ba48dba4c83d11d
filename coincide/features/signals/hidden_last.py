"""The last hidden state of the last token of a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from coincide.features.passes.reference import ReferenceSignal

if TYPE_CHECKING:
    import torch

    from coincide.features.forward.contract import Captured


@dataclass(frozen=True)
class HiddenLast(ReferenceSignal):
    """Hidden state [N, H] of the last real token, after the final norm.

    The released code of SemDeDup takes position -1, which is padding in a padded batch.
    """

    name: ClassVar[str] = "hidden_last"
    dtype: ClassVar[str] = "float16"
    last_layer: ClassVar[bool] = True

    def read(self, captured: Captured) -> torch.Tensor:
        import torch

        last = captured.attention_mask.sum(dim=1) - 1
        return captured.hidden[torch.arange(len(last), device=last.device), last].double()
