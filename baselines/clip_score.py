"""CLIP-score: how well image and text agree.

Score, with φ CLIP's unit embeddings:

    s_i = cos(φ_I(image_i), φ_T(text_i))

CLIPScore proper (Hessel et al. 2021) is 2.5 max(s, 0) with "A photo depicts" before the text: the
same ranking except among negatives. DataComp (Gadre et al. 2023) filters by it.

Which text is not settled: DICS takes the question, Self-Filter the dialogue cut at 77 tokens,
COINCIDE releases no code. ``text`` says which, the dialogue by default; of many turns the cut
leaves the first (``coincide.features.signals.clip_text``). Published CLIP: ViT-L/14 at 224 pixels.

Direction: ``high``, as DICS and DataComp have it; taken by rank, since a threshold (DataComp's
rule) keeps one row too many and all ties.

Rows: there is no score without an image. Text-only examples get their proportional share at random
(``quota``) or are left out (``drop``); DICS gives them 1.0 by hand, others do not say. Rows without
an answer, or whose chosen text is empty, are never selected.

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
    """Row by row, float32 [N], of unit rows [N, D]; NaN where either is."""
    products = np.asarray(images, np.float64) * np.asarray(texts, np.float64)
    return products.sum(axis=1).astype(np.float32)


@dataclass(frozen=True)
class ClipScore:
    """Rank by the cosine of image and text and keep an end of the ranking."""

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
        """Only the quota of text-only rows is drawn."""
        return self.text_only == "quota"

    def needs(self) -> Sequence[Need]:
        """CLIP's embeddings of the image and of the text."""
        return ClipImage(), ClipText(self.text)

    def score_config(self, seed: int) -> dict[str, Any]:
        """The embeddings say it all."""
        return {}

    def score(self, pool: Pool, seed: int) -> dict[str, np.ndarray]:
        """The cosine of image and text, float32 [N]."""
        return {"score": cosine(pool.signal(ClipImage())[:], pool.signal(ClipText(self.text))[:])}

    def select(self, pool: Pool, k: int, seed: int) -> Selection:
        """The ``k`` rows of the window, and the text-only share."""
        score = pool.scored(self, seed)["score"]
        return select_by_score(pool, score, k, self.direction, self.text_only, seed)
