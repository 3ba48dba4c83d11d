"""A judge of the demo's rows for ``method=mmssr``: the skills that a row asks for, by its words.

``python -m coincide.data.demo.judge train.json scores.csv`` stands in for mmSSR's two 7B models
(arXiv 2503.13383), which a laptop cannot ask. It knows the world's questions, as a perfect judge
would, but neither pictures nor whether an answer is right.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from coincide.data.demo.world import NUMBERS, TEXTURES
from coincide.data.llava_json import read
from coincide.schema import Example

SKILLS = {
    "colour": "colour",
    "shape": "shape",
    "size": "size",
    "texture": "|".join(TEXTURES),
    "reading": "is written",
    "counting": "How many",
    "place": "Where is|What is at",
    "comparison": "higher|same",
    "presence": "Is there",
    "chart": "bar",
    "options": "with the letter",
    "description": "Describe",
    "language": "Say after me|last word|Count up",
}
"""Skill -> what a question that asks for it, or its answer, contains (a regular expression)."""
MOST = 5
"""The highest score, as mmSSR's judges give."""


def scores_of(example: Example) -> list[int]:
    """Of each of ``SKILLS``: how many of the example's questions ask for it, at most ``MOST``."""
    texts = [turn.text for turn in example.turns]
    asked = [" ".join(pair) for pair in zip(texts[::2], texts[1::2], strict=True)]
    return [
        min(MOST, sum(re.search(mark, text) is not None for text in asked))
        for mark in SKILLS.values()
    ]


def style_of(example: Example) -> str:
    """The form of the last answer: ``yes or no``, ``letter``, ``number``, ``word`` or ``words``."""
    words = example.turns[-1].text.split()
    if len(words) > 1:
        return "words"
    word = words[0] if words else ""
    if word in ("yes", "no"):
        return "yes or no"
    if word in NUMBERS:
        return "number"
    return "letter" if len(word) == 1 else "word"


def main(arguments: Sequence[str]) -> int:
    """Write the table of all rows of an annotation file."""
    if len(arguments) != 2:
        print("usage: python -m coincide.data.demo.judge train.json scores.csv", file=sys.stderr)
        return 2
    annotations, target = map(Path, arguments)
    dataset = read(annotations, annotations.parent / "images", name="demo")
    with target.open("w", encoding="utf-8", newline="") as handle:
        table = csv.writer(handle)
        table.writerow(["row", "style", *SKILLS])
        for example in dataset.examples:
            table.writerow([example.row, style_of(example), *scores_of(example)])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
