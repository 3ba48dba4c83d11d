"""How the text of a row attends to its image, at one checkpoint of a warm-up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from coincide.features.forward.contract import Tap
from coincide.features.passes.adapted import AdaptedForwardSignal

if TYPE_CHECKING:
    import torch

    from coincide.features.forward.attention import Weights
    from coincide.features.forward.contract import Captured

KEPT = 5
"""Singular values."""


@dataclass(frozen=True)
class AttentionSpectrum(AdaptedForwardSignal):
    """[N, 5]: the largest singular values of the attention weights of the text behind the image to
    the image tokens, mean over heads, summed over ``layers``; 0 where there are fewer. NaN for a
    row without an image.
    """

    name: ClassVar[str] = "attention_spectrum"
    dtype: ClassVar[str] = "float32"
    nan_allowed: ClassVar[bool] = True

    layers: Sequence[int] = ()
    """Decoder blocks, 0-based."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "layers", tuple(self.layers))

    def width(self, hidden: int) -> int:
        return KEPT

    def taps(self) -> Sequence[Tap]:
        return [Tap(layer, "weights", text_to_image) for layer in self.layers]

    def read(self, captured: Captured) -> torch.Tensor:
        import torch

        whole = torch.stack([captured.tapped[tap] for tap in self.taps()]).sum(dim=0)
        values = torch.linalg.svdvals(whole)[:, :KEPT]
        values = torch.nn.functional.pad(values, (0, KEPT - values.shape[1]))
        blind = ~captured.image_mask.any(dim=1)
        return values.masked_fill(blind.unsqueeze(1), torch.nan)


def text_to_image(weights: Weights, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Of one block, [B, Q, V] float64: Q text tokens of a row and V image tokens, 0 beyond."""
    import torch

    images, texts = batch["image_mask"], batch["text_mask"]
    shape = (len(images), max(1, int(texts.sum(1).max())), max(1, int(images.sum(1).max())))
    found = weights.query.new_zeros(shape, dtype=torch.float64)
    for row, tokens in enumerate(batch["attention_mask"].sum(dim=1).tolist()):
        queries = texts[row].nonzero().flatten()
        if len(queries) and images[row].any():
            part = weights.mean_of_heads(row, queries, tokens)[:, images[row, :tokens]]
            found[row, : part.shape[0], : part.shape[1]] = part
    return found
