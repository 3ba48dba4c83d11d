"""Questions and answers about scenes: one function per skill, used for training and benchmarks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from coincide.data.demo.captions import dense
from coincide.data.demo.world import (
    COLOUR_NAMES,
    GRID,
    NUMBERS,
    POSITIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    Split,
    Thing,
    chart,
    coloured,
    digit,
    letter,
    scatter,
    written,
)

BRIEF = "Answer with one word."
OPTIONS = "AB"


@dataclass(frozen=True, slots=True)
class Question:
    """A question about one scene. ``category`` is the kind of question, for the breakdown."""

    text: str
    answer: str
    category: str


Maker = Callable[[np.random.Generator, Split], tuple[Scene, list[Question]]]
"""Draws a scene and all questions about it, in random order."""


def objects(rng: np.random.Generator, low: int, high: int, names: tuple[str, ...]) -> list[Thing]:
    """Between ``low`` and ``high`` things with different names."""
    count = min(int(rng.integers(low, high + 1)), len(names))
    return [coloured(rng, (str(name),)) for name in rng.permutation(names)[:count]]


def attributes(rng: np.random.Generator, split: Split) -> tuple[Scene, list[Question]]:
    """Recognise: colour and size of a named thing, name of the only thing of a colour."""
    scene = scatter(rng, objects(rng, 2, 4, SHAPES))
    return scene, _shuffled(rng, _attribute_questions(scene))


def textures(rng: np.random.Generator, split: Split) -> tuple[Scene, list[Question]]:
    """Recognise, for textures: the same questions on a concept that is rare in training."""
    scene = scatter(rng, objects(rng, 2, 3, TEXTURES))
    return scene, _shuffled(rng, _attribute_questions(scene))


def counting(rng: np.random.Generator, split: Split) -> tuple[Scene, list[Question]]:
    """Count: things of one shape among others, up to four."""
    asked, other = (str(name) for name in rng.permutation(SHAPES)[:2])
    count = int(rng.integers(0, 5))
    others = [coloured(rng, (other,)) for _ in range(int(rng.integers(0, 4)))]
    scene = scatter(rng, [coloured(rng, (asked,)) for _ in range(count)] + others)
    question = Question(f"How many {plural(asked)} are there? {BRIEF}", NUMBERS[count], "shape")
    return scene, [question]


def presence(rng: np.random.Generator, split: Split) -> tuple[Scene, list[Question]]:
    """Yes or no: is there a number, or a letter, among the shapes? Half of the answers are yes."""
    kinds = {"number": digit(rng, split), "letter": letter(rng)}
    there = [kind for kind in kinds if rng.random() < 0.5]
    scene = scatter(rng, [*objects(rng, 2, 4, SHAPES), *(kinds[kind] for kind in there)])
    questions = []
    for kind in kinds:
        answer = "yes" if kind in there else "no"
        questions.append(Question(f"Is there a {kind} in the picture? {BRIEF}", answer, answer))
    return scene, _shuffled(rng, questions)


def choice(rng: np.random.Generator, split: Split) -> tuple[Scene, list[Question]]:
    """Multiple choice: the size of a thing, answered by its letter."""
    things = objects(rng, 1, 3, SHAPES)
    scene = scatter(rng, things)
    options = ", ".join(f"{letter} {size}" for letter, size in zip(OPTIONS, SIZES, strict=True))
    questions = []
    for thing in things:
        text = f"What size is the {thing.name}? {options}. Answer with the letter."
        questions.append(Question(text, OPTIONS[SIZES.index(thing.size)], thing.size))
    return scene, questions


def reading_digits(rng: np.random.Generator, split: Split) -> tuple[Scene, list[Question]]:
    """Read: one to three handwritten digits in a row."""
    things = [digit(rng, split) for _ in range(int(rng.integers(1, 4)))]
    answer = " ".join(thing.name for thing in things)
    return written(rng, things), [Question("What number is written?", answer, "digits")]


def reading_letters(rng: np.random.Generator, split: Split) -> tuple[Scene, list[Question]]:
    """Read: two or three letters in a row, a rarer concept than digits."""
    things = [letter(rng) for _ in range(int(rng.integers(2, 4)))]
    answer = " ".join(thing.name for thing in things)
    return written(rng, things), [Question("What word is written?", answer, "letters")]


def locating(rng: np.random.Generator, split: Split) -> tuple[Scene, list[Question]]:
    """Locate: where a thing is, and what is at a place."""
    scene = scatter(rng, objects(rng, 2, 4, SHAPES))
    questions = []
    for place, thing in enumerate(scene):
        if thing is not None:
            questions.append(Question(f"Where is the {thing.name}?", POSITIONS[place], "where"))
            what = f"What is at the {POSITIONS[place]}?"
            questions.append(Question(what, f"{thing.colour} {thing.name}", "what"))
    return scene, _shuffled(rng, questions)


def comparing(rng: np.random.Generator, split: Split) -> tuple[Scene, list[Question]]:
    """Compare: which of two things is above or left of the other, and whether they look alike."""
    things = objects(rng, 2, 4, SHAPES)
    scene = scatter(rng, things)
    first, second = things[:2]
    where = [divmod(scene.index(thing), GRID) for thing in (first, second)]
    questions = []
    if where[0][0] != where[1][0]:
        answer = first.name if where[0][0] < where[1][0] else second.name
        text = f"Which is higher, the {first.name} or the {second.name}? {BRIEF}"
        questions.append(Question(text, answer, "higher"))
    same = "yes" if first.colour == second.colour else "no"
    text = f"Are the {first.name} and the {second.name} the same colour? {BRIEF}"
    questions.append(Question(text, same, "same colour"))
    return scene, questions


def charts(rng: np.random.Generator, split: Split) -> tuple[Scene, list[Question]]:
    """Read a chart: the highest bar, and how high a bar is."""
    scene = chart(rng)
    heights = Counter(thing.colour for thing in scene if thing is not None)
    highest = max(heights, key=lambda colour: heights[colour])
    questions = [Question(f"Which bar is the highest? {BRIEF}", highest, "highest")]
    for colour, height in heights.items():
        text = f"How high is the {colour} bar? {BRIEF}"
        questions.append(Question(text, NUMBERS[height], "height"))
    return scene, _shuffled(rng, questions)


def describing(rng: np.random.Generator, split: Split) -> tuple[Scene, list[Question]]:
    """Describe: the long answers of the mixture."""
    scene = scatter(rng, objects(rng, 2, 5, SHAPES))
    return scene, [Question("Describe the picture.", dense(scene), "describe")]


def talking(rng: np.random.Generator) -> list[Question]:
    """Text-only questions: repeat, choose, count up."""
    words = [str(word) for word in rng.permutation([*COLOUR_NAMES, *SHAPES, *SIZES])[:3]]
    start = int(rng.integers(0, 7))
    upward = " ".join(NUMBERS[start : start + 3])
    return _shuffled(
        rng,
        [
            Question(f"Say after me: {' '.join(words)}", " ".join(words), "repeat"),
            Question(f"What is the last word of {' '.join(words)}?", words[-1], "last"),
            Question(f"Count up from {NUMBERS[start]}.", upward, "count"),
        ],
    )


def plural(name: str) -> str:
    """``cross`` -> ``crosses``."""
    return name + ("es" if name.endswith("s") else "s")


def _attribute_questions(scene: Scene) -> list[Question]:
    things = [thing for thing in scene if thing is not None]
    colours = Counter(thing.colour for thing in things)
    questions = []
    for thing in things:
        colour = f"What colour is the {thing.name}? {BRIEF}"
        size = f"What size is the {thing.name}? {BRIEF}"
        questions.append(Question(colour, thing.colour, "colour"))
        questions.append(Question(size, thing.size, "size"))
        if colours[thing.colour] == 1:
            shape = f"What shape is {thing.colour}? {BRIEF}"
            questions.append(Question(shape, thing.name, "shape"))
    return questions


def _shuffled(rng: np.random.Generator, questions: list[Question]) -> list[Question]:
    return [questions[i] for i in rng.permutation(len(questions))]
