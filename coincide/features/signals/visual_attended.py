"""What the image tokens that the user's text attends to have become after the first block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from coincide.features.forward.contract import Tap
from coincide.features.passes.reference import ReferenceSignal
from coincide.schema import UserError

if TYPE_CHECKING:
    import torch

    from coincide.features.forward.attention import Weights
    from coincide.features.forward.contract import Captured

IGNORE = -100


@dataclass(frozen=True)
class VisualAttended(ReferenceSignal):
    """Residual stream [N, H] after block ``layer`` (0-based), mean over the attended image tokens.

    The block's attention, mean over heads, is averaged over the text tokens that are no answer to
    be learnt and normalised over the image tokens; the attended ones are the fewest whose shares
    add up to more than ``threshold``, the largest first, ties by position. With ``threshold`` 1
    they are all. Nothing but this block need form attention weights; alone, none runs after it. A
    row without an image is zero.
    """

    name: ClassVar[str] = "visual_attended"
    dtype: ClassVar[str] = "float32"

    layer: int = 0
    threshold: float = 0.9

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise UserError(f"threshold={self.threshold}: expected a share from 0 to 1.")

    def taps(self) -> Sequence[Tap]:
        return [Tap(self.layer, "weights", image_shares), Tap(self.layer, "block", as_they_are)]

    def read(self, captured: Captured) -> torch.Tensor:
        shares, states = (captured.tapped[tap] for tap in self.taps())
        chosen = most_attended(shares, captured.image_mask, self.threshold).double().unsqueeze(1)
        return (chosen @ states.double()).squeeze(1) / chosen.sum(dim=2).clamp_min(1.0)


def image_shares(weights: Weights, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The share of each image token in what the text but the answers attends to, float64 [B, T].

    They sum to 1, and are 0 off the image tokens. Where no text follows an image, all are alike.
    """
    import torch

    images = batch["image_mask"]
    text = batch["attention_mask"].bool() & ~images & (batch["labels"] == IGNORE)
    text &= images.cumsum(dim=1) > 0  # what stands before the image cannot see it
    found = torch.zeros(images.shape, dtype=torch.float64, device=images.device)
    for row, tokens in enumerate(batch["attention_mask"].sum(dim=1).tolist()):
        queries = torch.nonzero(text[row]).flatten()
        found[row, :tokens] = weights.mean_of_heads(row, queries, tokens).sum(dim=0)
    found = found * images
    found = torch.where(found.sum(dim=1, keepdim=True) > 0, found, images.double())
    return found / found.sum(dim=1, keepdim=True).clamp_min(1e-300)


def most_attended(shares: torch.Tensor, images: torch.Tensor, threshold: float) -> torch.Tensor:
    """bool [B, T]: the fewest tokens whose ``shares`` [B, T] exceed ``threshold``; of 1, all."""
    import torch

    if threshold >= 1:
        return images
    order = torch.argsort(-shares, dim=1, stable=True)
    before = torch.gather(shares, 1, order).cumsum(dim=1)
    before = torch.cat([torch.zeros_like(before[:, :1]), before[:, :-1]], dim=1)
    return torch.zeros_like(images).scatter(1, order, before <= threshold) & images


def as_they_are(states: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """``states`` [B, T, H]."""
    return states
