"""CLIP's embedding of the image of a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from coincide.features.forward.contract import Embedder
from coincide.features.passes.clip import ClipSignal
from coincide.schema import Example


@dataclass(frozen=True)
class ClipImage(ClipSignal):
    """CLIP's embedding [N, D] of the image; NaN without one.

    Of several images, the mean of their embeddings scaled to unit length. The image goes through
    CLIP's own processor, which crops to the centre where LLaVA pads.
    """

    name: ClassVar[str] = "clip_image"

    def embed(self, encoder: Embedder, examples: Sequence[Example]) -> np.ndarray:
        return encoder.images_of(examples)
