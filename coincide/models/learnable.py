"""What of a row no model can learn from, judged by its turns alone: torch is not needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from coincide.models.template import TEMPLATES, render
from coincide.schema import Turn

EMPTY = "every answer is empty"
NOT_LEARNT = "no turn is to be learnt"


class ProbeVerdict(NamedTuple):
    """Why a row cannot be used. ``refused``: the model cannot read it; else there is nothing to
    learn.
    """

    refused: bool
    kind: str
    detail: str = ""


def nothing_to_learn(turns: Sequence[Turn]) -> ProbeVerdict | None:
    """Why no model can learn anything from ``turns``; None if one can."""
    answers = [turn for turn in turns if turn.role == "gpt"]
    if not any(turn.text for turn in answers):
        return ProbeVerdict(False, EMPTY)
    if not any(segment.answer for segment in render(TEMPLATES["tiny"], turns)):
        return ProbeVerdict(False, NOT_LEARNT)
    return None
