"""MMBench's prompts, as in lmms-eval and as in LLaVA-1.5's script.

The latter is ``llava/eval/model_vqa_mmbench.py`` of haotian-liu/LLaVA, commit c121f04.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmms_eval.tasks.mmbench import cn_utils, en_utils

MMBenchDocument = Mapping[str, Any]
MISSING = ("", "nan", "none")
"""Texts (any case) that stand for an empty cell after a table was read and written again."""


def lmms_eval_en(doc: MMBenchDocument, lmms_eval_specific_kwargs: Mapping[str, str]) -> str:
    """lmms-eval's English prompt; without a hint if there is none."""
    return str(en_utils.mmbench_doc_to_text(_without_nan(doc), lmms_eval_specific_kwargs))


def lmms_eval_cn(doc: MMBenchDocument, lmms_eval_specific_kwargs: Mapping[str, str]) -> str:
    """lmms-eval's Chinese prompt; without a hint if there is none."""
    return str(cn_utils.mmbench_doc_to_text(_without_nan(doc), lmms_eval_specific_kwargs))


def llava_1_5(doc: MMBenchDocument, lmms_eval_specific_kwargs: Mapping[str, str]) -> str:
    """Hint, question and options, each on a line of its own, and ``post_prompt``.

    Options end at the first missing one, as in LLaVA's script.
    """
    lines = [] if missing(doc["hint"]) else [doc["hint"]]
    lines.append(doc["question"])
    for letter in "ABCD":
        if missing(doc.get(letter)):
            break
        lines.append(f"{letter}. {doc[letter]}")
    return "\n".join(lines) + lmms_eval_specific_kwargs["post_prompt"]


def missing(value: Any) -> bool:
    """Whether a cell is empty: None, NaN, or a text that stands for these."""
    return value is None or value != value or str(value).strip().lower() in MISSING


def _without_nan(doc: MMBenchDocument) -> dict[str, Any]:
    return {**doc, "hint": None if missing(doc["hint"]) else doc["hint"]}
