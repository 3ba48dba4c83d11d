"""Kinds of models that cannot be right here, told by ``model_type`` before anything is loaded.

Found with tiny models of each kind (``python -m tests.families``; the table is docs/MODELS.md).
"""

from __future__ import annotations

from collections.abc import Mapping

SEES = "its attention sees the whole row, so a token sees the answer that it is to predict"
WANTS = "its processor takes no row without a picture, and one picture a row"
NO_CHAT = "it was made for tasks with prompts of their own and has no chat template"
ENCODES = "it has an encoder and a decoder: question and answer are not one sequence"
REFUSED: Mapping[str, str] = {
    "paligemma": SEES,
    "mllama": "its picture's features are read through cross-attention, so no token holds them",
    "idefics2": "its processor does not tell where it puts pictures, so answers cannot be found",
    "florence2": ENCODES,
    "got_ocr2": WANTS,
    "pp_chart2table": WANTS,
    "blip-2": WANTS,
    "instructblip": WANTS,
    "kosmos-2": NO_CHAT,
    "kosmos-2.5": NO_CHAT,
    "chameleon": NO_CHAT,
    "blip": NO_CHAT,
    "git": NO_CHAT,
    "pix2struct": ENCODES,
    "udop": ENCODES,
    "vision-encoder-decoder": ENCODES,
}
INSTEAD = (
    "Choose a model of a kind that docs/MODELS.md lists as right, e.g. Qwen2.5-VL, Qwen3-VL, "
    "SmolVLM, InternVL or LLaVA-OneVision"
)


def why_refused(model_type: str) -> str:
    """Why models of ``model_type`` are refused; empty if they are not."""
    return REFUSED.get(model_type, "")
