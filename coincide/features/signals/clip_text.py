"""CLIP's embedding of the text of a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from coincide.features.forward.contract import Embedder
from coincide.features.passes.clip import ClipSignal
from coincide.schema import Example, UserError

FORMS = ("dialogue", "question", "answer")
ROLES = {"human": "USER", "gpt": "ASSISTANT"}
IMAGE = "<image>"


@dataclass(frozen=True)
class ClipText(ClipSignal):
    """CLIP's embedding [N, D] of the conversation; NaN where the text is empty.

    ``text`` is one of ``FORMS``: ``dialogue``, "USER: question ASSISTANT: answer USER: ...", as in
    Self-Filter; ``question``, what the human says, as in DICS; ``answer``, what is answered.
    ``<image>`` is removed, the parts are joined by one space, and the text is cut at CLIP's limit
    of 77 tokens, so that only the first of many turns are seen.
    """

    name: ClassVar[str] = "clip_text"

    text: str

    def __post_init__(self) -> None:
        if self.text not in FORMS:
            raise UserError(f"text={self.text!r}: the choices are {', '.join(FORMS)}.")

    def embed(self, encoder: Embedder, examples: Sequence[Example]) -> np.ndarray:
        return encoder.texts([conversation_text(example, self.text) for example in examples])


def conversation_text(example: Example, form: str) -> str:
    """The conversation as one text in ``form``, one of ``FORMS``."""
    turns = [turn for turn in example.turns if turn.learn or form != "answer"]
    said = [(turn.role, " ".join(turn.text.replace(IMAGE, " ").split())) for turn in turns]
    if form == "dialogue":
        return " ".join(f"{ROLES[role]}: {text}" for role, text in said if text)
    wanted = "human" if form == "question" else "gpt"
    return " ".join(text for role, text in said if role == wanted).strip()
