"""The demo's training mixture: rows per source, with typical faults.

Proportions follow LLaVA-665K: two sources dominate, several are small, 6 % are text-only, many rows
ask several questions about one picture, pictures recur, and some answers are wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from coincide.data.demo import tasks
from coincide.data.demo.tasks import Maker, Question
from coincide.data.demo.world import Scene
from coincide.schema import UserError


@dataclass(frozen=True)
class MixtureSource:
    """A part of the mixture: ``share`` of the rows, with at most ``turns`` questions each."""

    name: str
    share: float
    make: Maker | None
    """Draws a scene and its questions; None: text-only."""
    turns: int = 1
    repeats: float = 0.0
    """Share of its rows that show the picture of an earlier row again, with other questions."""


SOURCES = (
    MixtureSource("vqa", 0.225, tasks.attributes, turns=4, repeats=0.35),
    MixtureSource("objects", 0.15, tasks.presence, turns=2, repeats=0.25),
    MixtureSource("digits", 0.12, tasks.reading_digits, repeats=0.25),
    MixtureSource("places", 0.115, tasks.locating, turns=3, repeats=0.1),
    MixtureSource("compare", 0.09, tasks.comparing, turns=2),
    MixtureSource("describe", 0.07, tasks.describing),
    MixtureSource("text", 0.06, None, turns=2),
    MixtureSource("choice", 0.055, tasks.choice, turns=2),
    MixtureSource("charts", 0.04, tasks.charts, turns=2),
    MixtureSource("counting", 0.035, tasks.counting),
    MixtureSource("letters", 0.025, tasks.reading_letters),
    MixtureSource("textures", 0.015, tasks.textures, turns=2),
)
WRONG = 0.03
"""Share of rows whose answers belong to another picture of their source."""
SHARED_IDS = 0.01
"""Share of rows with the id of another row, as in LLaVA-665K."""


@dataclass(frozen=True)
class MixtureRow:
    """One training row before it is written."""

    source: str
    scene: Scene | None
    picture: int
    """Number of its picture; rows that share a picture have the same number. -1: no picture."""
    questions: tuple[Question, ...]


def rows(n: int, seed: int) -> list[MixtureRow]:
    """``n`` rows of the mixture, ordered by source like the blocks of LLaVA's file.

    Raises UserError for fewer than 200.
    """
    if n < 200:
        raise UserError(f"data.n={n}: expected at least 200, so that each source has rows.")
    counts = [round(source.share * n) for source in SOURCES]
    counts[0] += n - sum(counts)
    found: list[MixtureRow] = []
    pictures = 0
    for number, (source, count) in enumerate(zip(SOURCES, counts, strict=True)):
        rng = np.random.Generator(np.random.PCG64([seed, 1, number]))
        block = _block(source, count, rng, pictures)
        pictures = max([pictures, *(row.picture + 1 for row in block)])
        found += _some_wrong(block, rng)
    return found


def _block(
    source: MixtureSource, count: int, rng: np.random.Generator, picture: int
) -> list[MixtureRow]:
    block: list[MixtureRow] = []
    unused: list[tuple[int, Scene, list[Question]]] = []
    for _ in range(count):
        turns = int(rng.integers(1, source.turns + 1))
        if source.make is None:
            block.append(MixtureRow(source.name, None, -1, tuple(tasks.talking(rng)[:turns])))
            continue
        if unused and rng.random() < source.repeats:
            number, scene, questions = unused[int(rng.integers(len(unused)))]
            questions = [questions[i] for i in rng.permutation(len(questions))]
        else:
            scene, questions = source.make(rng, "train")
            number = picture
            picture += 1
            unused.append((number, scene, questions))
        block.append(MixtureRow(source.name, scene, number, tuple(questions[:turns])))
    return block


def _some_wrong(block: list[MixtureRow], rng: np.random.Generator) -> list[MixtureRow]:
    """Give a few rows the questions and answers of another picture of the block."""
    spoiled = list(block)
    if block[0].scene is not None:
        for i in rng.permutation(len(block))[: round(WRONG * len(block))]:
            other = block[int(rng.integers(len(block)))]
            spoiled[i] = MixtureRow(
                block[i].source, block[i].scene, block[i].picture, other.questions
            )
    return spoiled


def llava_record(row: MixtureRow, number: int, ids: list[str]) -> dict[str, Any]:
    """The row as LLaVA json; ``source`` is a field that LLaVA-665K does not have."""
    conversations = []
    for turn, question in enumerate(row.questions):
        opening = "<image>\n" if turn == 0 and row.scene is not None else ""
        conversations.append({"from": "human", "value": opening + question.text})
        conversations.append({"from": "gpt", "value": question.answer})
    record: dict[str, Any] = {"id": ids[number], "source": row.source}
    if row.scene is not None:
        record["image"] = image_name(row)
    record["conversations"] = conversations
    return record


def image_name(row: MixtureRow) -> str:
    """Path of the row's picture below the image root."""
    return f"{row.source}/{row.picture:06d}.png"


def make_ids(rows_: list[MixtureRow], seed: int) -> list[str]:
    """An id for each row; a few occur twice."""
    rng = np.random.Generator(np.random.PCG64([seed, 2]))
    ids = [f"{row.source}_{i:06d}" for i, row in enumerate(rows_)]
    for i in rng.permutation(len(ids))[: round(SHARED_IDS * len(ids))]:
        ids[i] = ids[int(rng.integers(len(ids)))]
    return ids
