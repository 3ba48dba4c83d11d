"""Whether a document's pictures are shown where its question names them, which MMMU's may not be.

lmms-eval deals MMMU's pictures left to right in the order of their numbers. A question that names
``<image 2>`` before ``<image 1>`` so gets them swapped; one that names a picture twice loses text,
or a picture stands in the place of another. The answers are what they are; how many documents it
concerns is counted and told.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

KEY = "pictures_moved"
"""In a logged sample and in its record: whether; in ``result.json``: how many. Absent: not known,
or no task that deals pictures."""


def pictures_reordered(text: str) -> bool:
    """Whether ``text``, question and options, names pictures otherwise than 1, 2, ... once each."""
    named = [int(number) for number in re.findall(r"<image (\d+)>", text)]
    return named != sorted(set(named))


def attach(filtered: Mapping[str, Sequence[Any]], task: Any) -> None:
    """Say of every logged sample of lmms-eval's ``task`` whether its pictures moved."""
    if not _deals(task):
        return
    from lmms_eval.tasks.mmmu.utils import construct_prompt

    for samples in filtered.values():
        for sample in samples:
            sample[KEY] = pictures_reordered(construct_prompt(sample["doc"]))


def record_field(sample: Mapping[str, Any]) -> dict[str, bool]:
    """The field of a sample's record; empty where none was attached."""
    return {KEY: sample[KEY]} if KEY in sample else {}


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """For ``result.json``, from the records; empty where they do not say."""
    known = [row[KEY] for row in rows if KEY in row]
    return {KEY: sum(known)} if known else {}


def _deals(task: Any) -> bool:
    """Whether the pictures are put between the texts by MMMU's function, in its plain format."""
    asks = getattr(task.config.doc_to_messages, "__name__", "")
    settings = task.lmms_eval_specific_kwargs or {}
    return asks == "mmmu_doc_to_messages" and settings.get("format") != "qwen3_vl"
