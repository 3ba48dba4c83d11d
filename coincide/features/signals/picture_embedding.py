"""A vision tower's embedding of the picture of a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from coincide.features.forward.contract import Embedder
from coincide.features.passes.vision import VisionSignal
from coincide.schema import Example


@dataclass(frozen=True)
class PictureEmbedding(VisionSignal):
    """A vision tower's embedding [N, D] of the picture, of unit length; NaN without one.

    Of several pictures, the mean of their embeddings scaled to unit length. From
    ``vision=dinov2_base`` or any tower of transformers; each distinct picture is encoded once.
    """

    name: ClassVar[str] = "picture_embedding"

    def embed(self, encoder: Embedder, examples: Sequence[Example]) -> np.ndarray:
        return encoder.images_of(examples)
