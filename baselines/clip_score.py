"""CLIP-score: the similarity of image and text according to CLIP.

Score, with φ CLIP's unit embeddings:

    s_i = cos(φ_I(image_i), φ_T(text_i))

CLIPScore proper (Hessel et al. 2021) is 2.5 max(s, 0) with "A photo depicts" before the text: the
same ranking except among negative values. DataComp (Gadre et al. 2023) filters by it.

Uncertain: which text. DICS takes the question, Self-Filter the dialogue cut at 77 tokens, COINCIDE
releases no code. ``text`` chooses, by default the dialogue; the cut leaves only the first of many
turns (``coincide.features.signals.clip_text``). Published CLIP: ViT-L/14 at 224 pixels.

Direction: ``high``, as in DICS and DataComp; by rank, since a threshold (DataComp's rule) keeps one
row too many and all ties.

Rows: there is no score without an image. Text-only examples get their proportional share at random
(``quota``) or are left out (``drop``); DICS sets their score to 1.0, others do not say. Rows
without an answer, or whose chosen text is empty, are never selected.

Cost: one CLIP pass, each image once, then a sort; no reference model.

Published, LLaVA-665K 20 % on LLaVA-1.5-7B: Rel. 91.2; DICS at 25 % measured 98.7, above all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from baselines.ranking import DIRECTIONS, Direction, check_choice, select_by_score
from coincide.features.signals.clip_image import ClipImage
from coincide.features.signals.clip_text import FORMS, ClipText
from coincide.schema import Need, Pool, Selection


def cosine(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Cosine of row i of ``images`` and row i of ``texts``, unit rows [N, D]: float32 [N].

    NaN where either row is NaN.
    """
    products = np.asarray(images, np.float64) * np.asarray(texts, np.float64)
    return products.sum(axis=1).astype(np.float32)


@dataclass(frozen=True)
class ClipScore:
    """Ranks by the cosine of image and text and keeps one end of the ranking."""

    text: Literal["dialogue", "question", "answer"] = "dialogue"
    direction: Direction = "high"
    text_only: Literal["quota", "drop"] = "quota"
    name: str = "clip_score"
    fixed_size: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_choice(self.name, "text", self.text, FORMS)
        check_choice(self.name, "direction", self.direction, DIRECTIONS)
        check_choice(self.name, "text_only", self.text_only, ("quota", "drop"))

    @property
    def uses_seed(self) -> bool:
        """Whether the run's seed matters: only for the random quota of text-only rows."""
        return self.text_only == "quota"

    def needs(self) -> Sequence[Need]:
        """CLIP's embeddings of the image and of the text."""
        return ClipImage(), ClipText(self.text)

    def score_config(self, seed: int) -> dict[str, Any]:
        """Nothing besides the signals."""
        return {}

    def score(self, pool: Pool, seed: int) -> dict[str, np.ndarray]:
        """``{"score": float32 [N]}``: the cosine of image and text.

        NaN without an image or text.
        """
        return {"score": cosine(pool.signal(ClipImage())[:], pool.signal(ClipText(self.text))[:])}

    def select(self, pool: Pool, k: int, seed: int) -> Selection:
        """The ``k`` rows with the highest (or lowest) score, and the share of text-only rows."""
        score = pool.scored(self, seed)["score"]
        return select_by_score(pool, score, k, self.direction, self.text_only, seed)
