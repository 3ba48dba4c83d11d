"""Count documents of MMMU whose pictures are not shown where their question names them.

lmms-eval places MMMU's pictures from left to right in the order of their numbers. If a question
names ``<image 2>`` before ``<image 1>``, they are swapped; if it names a picture twice, text is
lost or a picture takes the place of another. Answers are not changed here; the number of such
documents is counted and reported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

KEY = "pictures_moved"
"""In a logged sample and its record: whether its pictures are displaced; in ``result.json``: how
many. Absent: not known, or the task does not place pictures this way."""


def pictures_reordered(text: str) -> bool:
    """Whether ``text`` (question and options) names pictures in another way than 1, 2, ...

    Once each.
    """
    named = [int(number) for number in re.findall(r"<image (\d+)>", text)]
    return named != sorted(set(named))


def attach(filtered: Mapping[str, Sequence[Any]], task: Any) -> None:
    """Record in every logged sample of lmms-eval's ``task`` whether its pictures are displaced."""
    if not _deals(task):
        return
    from lmms_eval.tasks.mmmu.utils import construct_prompt

    for samples in filtered.values():
        for sample in samples:
            sample[KEY] = pictures_reordered(construct_prompt(sample["doc"]))


def record_field(sample: Mapping[str, Any]) -> dict[str, bool]:
    """The field for the sample's record in ``samples.jsonl``; empty if none was attached."""
    return {KEY: sample[KEY]} if KEY in sample else {}


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The field for ``result.json``, counted over the records; empty if they do not have it."""
    known = [row[KEY] for row in rows if KEY in row]
    return {KEY: sum(known)} if known else {}


def _deals(task: Any) -> bool:
    """Whether MMMU's own function places the pictures between the texts, in its plain format."""
    asks = getattr(task.config.doc_to_messages, "__name__", "")
    settings = task.lmms_eval_specific_kwargs or {}
    return asks == "mmmu_doc_to_messages" and settings.get("format") != "qwen3_vl"
