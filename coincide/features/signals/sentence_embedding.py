"""A text encoder's embedding of what a row asks first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from coincide.features.forward.contract import Embedder
from coincide.features.passes.sentence import SentenceSignal
from coincide.features.signals.clip_text import IMAGE
from coincide.schema import Example


@dataclass(frozen=True)
class SentenceEmbedding(SentenceSignal):
    """A text encoder's embedding [N, D] of the first question, of unit length; NaN without one.

    The first human turn, ``<image>`` and line breaks removed, cut at the encoder's limit. From
    ``sentence=minilm`` or any text encoder of transformers.
    """

    name: ClassVar[str] = "sentence_embedding"

    def embed(self, encoder: Embedder, examples: Sequence[Example]) -> np.ndarray:
        return encoder.texts([first_question(example) for example in examples])


def first_question(example: Example) -> str:
    """The first human turn without ``<image>``, its white space single."""
    said = (turn.text for turn in example.turns if turn.role == "human")
    return " ".join(next(said, "").replace(IMAGE, " ").split())
