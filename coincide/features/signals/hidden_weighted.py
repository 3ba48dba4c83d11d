"""The mean of the last hidden states of a row, later ones weighing more (RDS+)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from coincide.features.passes.reference import ReferenceSignal
from coincide.schema import UserError

if TYPE_CHECKING:
    import torch

    from coincide.features.forward.contract import Captured

TOKENS = ("all", "text")


@dataclass(frozen=True)
class HiddenWeighted(ReferenceSignal):
    """sum_j j h_j / sum_j j [N, H] over the real tokens of the states after the final norm.

    j counts them from 1. ``tokens``: ``all``, image tokens included, or ``text``, where j counts
    the others alone.
    """

    name: ClassVar[str] = "hidden_weighted"
    dtype: ClassVar[str] = "float16"
    last_layer: ClassVar[bool] = True

    tokens: Literal["all", "text"] = "all"

    def __post_init__(self) -> None:
        if self.tokens not in TOKENS:
            raise UserError(f"tokens={self.tokens!r}: the choices are {', '.join(TOKENS)}.")

    def read(self, captured: Captured) -> torch.Tensor:
        counted = captured.attention_mask.bool()
        if self.tokens == "text":
            counted = counted & ~captured.image_mask
        weights = (counted.cumsum(dim=1) * counted).double().unsqueeze(1)
        return (weights @ captured.hidden.double()).squeeze(1) / weights.sum(dim=2)
