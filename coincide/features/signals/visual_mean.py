"""What the image tokens of a row have become after a decoder block, on average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from coincide.features.forward.contract import Tap
from coincide.features.passes.reference import ReferenceSignal

if TYPE_CHECKING:
    import torch

    from coincide.features.forward.contract import Captured


@dataclass(frozen=True)
class VisualMean(ReferenceSignal):
    """Residual stream [N, H] after block ``layer`` (0-based), mean over the image tokens.

    A row without an image is zero: there is no NaN to trip over, and its direction is none.
    """

    name: ClassVar[str] = "visual_mean"
    dtype: ClassVar[str] = "float16"

    layer: int = 0

    def taps(self) -> Sequence[Tap]:
        return [Tap(self.layer, "block", image_mean)]

    def read(self, captured: Captured) -> torch.Tensor:
        return captured.tapped[self.taps()[0]]


def image_mean(states: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Mean of ``states`` [B, T, H] over the image tokens of each row, float64 [B, H]; else zero."""
    weights = batch["image_mask"].double().unsqueeze(1)
    return (weights @ states.double()).squeeze(1) / weights.sum(dim=2).clamp_min(1.0)
