"""How much the answer tokens attend to the image, and how pointedly (MAGIC)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from coincide.features.forward.contract import Tap
from coincide.features.passes.reference import ReferenceSignal

if TYPE_CHECKING:
    import torch

    from coincide.features.forward.attention import Weights
    from coincide.features.forward.contract import Captured

IGNORE = -100


@dataclass(frozen=True)
class Bridging(ReferenceSignal):
    """[N, 1]: attention to the image times its concentration, mean over ``layers`` and answers.

    For an answer token, with a the block's attention, mean over heads, on the V image tokens and m
    its sum: m (1 - H(a / m) / log V), H the entropy; with one image token, m. Between 0, nothing or
    the image as a whole, and 1, a single token of it. NaN for a row without image or answer.
    """

    name: ClassVar[str] = "bridging"
    dtype: ClassVar[str] = "float32"
    nan_allowed: ClassVar[bool] = True

    layers: Sequence[int]
    """Decoder blocks, 0-based."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))

    def params(self) -> dict[str, Any]:
        return {"layers": list(self.layers)}

    def width(self, hidden: int) -> int:
        return 1

    def taps(self) -> Sequence[Tap]:
        return [Tap(layer, "weights", bridges) for layer in self.layers]

    def read(self, captured: Captured) -> torch.Tensor:
        import torch

        return torch.stack([captured.tapped[tap] for tap in self.taps()]).mean(dim=0).unsqueeze(1)


def bridges(weights: Weights, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Of one block, the mean over the answer tokens of each row, float64 [B]; NaN without any."""
    import torch

    images, answers = batch["image_mask"], batch["labels"] != IGNORE
    found = torch.full((len(images),), torch.nan, dtype=torch.float64, device=images.device)
    for row, tokens in enumerate(batch["attention_mask"].sum(dim=1).tolist()):
        queries = torch.nonzero(answers[row]).flatten()
        if len(queries) and images[row].any():
            attention = weights.mean_of_heads(row, queries, tokens)
            found[row] = pointedness(attention[:, images[row, :tokens]]).mean()
    return found


def pointedness(attention: torch.Tensor) -> torch.Tensor:
    """m (1 - H / log V) of ``attention`` float64 [q, V] on the image tokens: float64 [q]."""
    import torch

    mass = attention.sum(dim=1)
    shares = attention / mass.unsqueeze(1).clamp_min(1e-300)
    entropy = torch.special.entr(shares).sum(dim=1)
    tokens = attention.shape[1]
    return mass * (1 - entropy / math.log(tokens)) if tokens > 1 else mass
