"""What a signal says of itself to the code that runs a model: where it looks, how it is read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from coincide.schema import Example, Signal

if TYPE_CHECKING:
    import torch

    from coincide.features.forward.capture import Captured
    from coincide.features.forward.clip import ClipEncoder


@dataclass(frozen=True)
class Tap:
    """A place in the decoder, and what is kept of the states that pass there.

    Two signals that name an equal tap share it; so ``reduce`` has to be a function of a module,
    not one made on the spot.
    """

    layer: int
    """Decoder block, 0-based."""
    place: Literal["attention", "block"]
    """The output of the block's attention (before the residual sum), or of the whole block."""
    reduce: Callable[[torch.Tensor, Mapping[str, torch.Tensor]], torch.Tensor]
    """States [B, T, H] and the collated batch (``image_mask``, ``text_mask``, ``attention_mask``
    [B, T], ...) -> what is kept of them, [B, ...]."""


class ForwardSignal(Signal, ABC):
    """A signal that is read off one forward pass of an image-text model."""

    last_layer: ClassVar[bool] = False
    """Whether it reads the output of the last layer. While no signal of a pass does, the blocks
    after the last tap are not computed."""

    def taps(self) -> Sequence[Tap]:
        """Where in the decoder it looks, besides the output of the last layer."""
        return ()

    @abstractmethod
    def read(self, captured: Captured) -> torch.Tensor:
        """The signal of one batch, float64 [B, D]."""


class EmbeddingSignal(Signal, ABC):
    """A signal that is an embedding of an image or of a text."""

    @abstractmethod
    def embed(self, encoder: ClipEncoder, examples: Sequence[Example]) -> np.ndarray:
        """Embeddings float32 [n, D] of ``examples``; a NaN row where there is nothing to embed."""
