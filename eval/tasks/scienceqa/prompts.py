"""ScienceQA's prompt as in LLaVA-1.5.

The format CQM-A of ``scripts/convert_sqa_to_llava.py`` writes the questions that
``llava/eval/model_vqa_science.py --single-pred-prompt`` asks (haotian-liu/LLaVA, commit c121f04).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LETTERS = "ABCDEFGHIJ"


def llava_1_5(doc: Mapping[str, Any], lmms_eval_specific_kwargs: Mapping[str, str]) -> str:
    """Context (``N/A`` without one), question, and all options on one line."""
    context = (doc["hint"] or "").strip() or "N/A"
    options = " ".join(
        f"({a}) {choice}" for a, choice in zip(LETTERS, doc["choices"], strict=False)
    )
    text = f"Context: {context}\nQuestion: {doc['question']}\nOptions: {options}"
    return text.replace("  ", " ").strip() + lmms_eval_specific_kwargs["post_prompt"]
