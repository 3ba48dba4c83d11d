"""VizWiz's prompt as in LLaVA-1.5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def llava_1_5(doc: Mapping[str, Any], lmms_eval_specific_kwargs: Mapping[str, str]) -> str:
    """The question as written, and the task's two sentences."""
    return f"{doc['question']}{lmms_eval_specific_kwargs['post_prompt']}"
