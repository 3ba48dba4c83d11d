"""Text for stage 1: questions about described scenes, so that the tiny models know the words.

A language model that LLaVA starts from has read; without this ours would know the words of captions
alone, and all others would lie in one direction (``yes`` and ``no`` at a cosine of 0.99). Pictures,
and the form of an instruction, do not occur.
"""

from __future__ import annotations

import numpy as np

from coincide.data.demo import tasks
from coincide.data.demo.captions import dense
from coincide.data.demo.world import POSITIONS, Scene

MAKERS = (
    tasks.attributes,
    tasks.textures,
    tasks.counting,
    tasks.presence,
    tasks.choice,
    tasks.reading_digits,
    tasks.reading_letters,
    tasks.locating,
    tasks.comparing,
    tasks.charts,
)


def passage(rng: np.random.Generator) -> tuple[str, str]:
    """A description, and a question about it with its answer."""
    choice = int(rng.integers(len(MAKERS) + 1))
    if choice == len(MAKERS):
        question = tasks.talking(rng)[0]
        return "", f"{question.text} {question.answer}"
    scene, questions = MAKERS[choice](rng, "pretrain")
    question = questions[int(rng.integers(len(questions)))]
    return described(scene, rng), f"{question.text} {question.answer}"


def described(scene: Scene, rng: np.random.Generator) -> str:
    """All of ``scene``: in raster order, or its things with their places in any order."""
    if rng.random() < 0.5:
        return dense(scene)
    places = [i for i in rng.permutation(len(scene)) if scene[i] is not None]
    return " , ".join(f"{POSITIONS[i]} : {_words(scene, i)}" for i in places)


def _words(scene: Scene, place: int) -> str:
    thing = scene[place]
    return "" if thing is None else thing.words()
