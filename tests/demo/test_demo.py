"""The demo: same bytes for a seed, a mixture like LLaVA-665K, answers that are true."""

from __future__ import annotations

import io
import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from baselines.mmssr import read_scores
from coincide.data.demo import Demo, judge, tasks
from coincide.data.demo.mixture import SOURCES, WRONG, rows
from coincide.data.demo.source import BENCHMARKS
from coincide.data.demo.world import COLOURS, DIGIT_ROWS, SIDE, Thing, draw
from coincide.schema import UserError
from coincide.store import Artifact, Store


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return Store(tmp_path_factory.mktemp("store")).ensure(Demo(n=400, items=20).step())


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path, artifact: Artifact) -> None:
    again = Store(tmp_path).ensure(Demo(n=400, items=20).step())
    assert again.manifest["files"] == artifact.manifest["files"]
    other = Store(tmp_path).ensure(Demo(n=400, items=20, seed=1).step())
    assert other.manifest["files"]["train.json"] != artifact.manifest["files"]["train.json"]


def test_the_reader_takes_every_row(artifact: Artifact) -> None:
    dataset = Demo(n=400, items=20).open(artifact.path)
    assert len(dataset) == artifact.facts["rows"] == 400
    assert not dataset.dropped
    assert Counter(e.source for e in dataset.examples) == artifact.facts["sources"]
    assert any(not e.images for e in dataset.examples)
    assert max(len(e.turns) for e in dataset.examples) == 8
    assert len({e.id for e in dataset.examples}) < 400


def test_the_mixture_is_heavy_tailed_redundant_and_a_little_wrong() -> None:
    found = rows(4000, 0)
    shares = sorted((source.share for source in SOURCES), reverse=True)
    assert sum(shares) == pytest.approx(1)
    assert len(SOURCES) >= 8
    assert shares[0] / shares[-1] >= 10
    pictures = [row.picture for row in found if row.scene is not None]
    assert len(set(pictures)) < 0.9 * len(pictures)
    assert 0.05 < sum(row.scene is None for row in found) / len(found) < 0.08
    assert 0 < WRONG < 0.05


def test_the_judge_finds_a_skill_in_every_row_and_no_other_in_its_source(
    artifact: Artifact, tmp_path: Path
) -> None:
    dataset = Demo(n=400, items=20).open(artifact.path)
    table = tmp_path / "scores.csv"
    assert judge.main([str(artifact.path / "train.json"), str(table)]) == 0
    names, scores, style = read_scores(table, dataset.examples)
    assert names == list(judge.SKILLS)
    assert (scores.sum(axis=1) > 0).all() and scores.max() <= judge.MOST
    asked = {"textures": "texture", "counting": "counting", "choice": "options", "text": "language"}
    for source, skill in asked.items():
        has = {e.row for e in dataset.examples if scores[e.row, names.index(skill)] > 0}
        assert has == {e.row for e in dataset.examples if e.source == source}
    letters = {e.row for e in dataset.examples if e.source == "choice"}
    assert {row for row, form in style.items() if form == "letter"} >= letters


def test_pictures_are_small_rgb(artifact: Artifact) -> None:
    record = json.loads((artifact.path / "train.json").read_text())[0]
    with Image.open(artifact.path / "images" / record["image"]) as picture:
        assert (picture.size, picture.mode) == ((SIDE, SIDE), "RGB")


def test_no_handwriting_is_shared_between_splits() -> None:
    ranges = sorted(DIGIT_ROWS.values())
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(ranges))
    assert ranges[-1][1] == 1797


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_benchmarks_have_their_questions(artifact: Artifact, name: str) -> None:
    table = pq.read_table(artifact.path / "benchmarks" / name / "test.parquet").to_pylist()
    assert len(table) == 20
    assert [row["question_id"] for row in table] == list(range(20))
    for row in table:
        assert Image.open(io.BytesIO(row["image"]["bytes"])).size == (SIDE, SIDE)
        assert row["answer"].strip()


def test_answers_are_true() -> None:
    """Counting and charts recounted from the scene that was asked about."""
    rng = np.random.Generator(np.random.PCG64(5))
    for _ in range(50):
        scene, (question,) = tasks.counting(rng, "test")
        asked = next(s for s in tasks.SHAPES if tasks.plural(s) in question.text)
        count = sum(thing is not None and thing.name == asked for thing in scene)
        assert question.answer == tasks.NUMBERS[count]
        scene, questions = tasks.charts(rng, "test")
        heights = Counter(thing.colour for thing in scene if thing)
        highest = next(q for q in questions if q.category == "highest")
        assert heights[highest.answer] == max(heights.values())
        assert list(heights.values()).count(max(heights.values())) == 1


def test_presence_is_balanced_and_never_contradicts_the_picture() -> None:
    rng = np.random.Generator(np.random.PCG64(6))
    answers = Counter()
    for _ in range(200):
        scene, questions = tasks.presence(rng, "test")
        kinds = {"number": "digit", "letter": "letter"}
        there = {thing.kind for thing in scene if thing}
        for question in questions:
            named = question.text.split()[3]
            assert (kinds[named] in there) == (question.answer == "yes")
            answers[question.answer] += 1
    assert 0.4 < answers["yes"] / answers.total() < 0.6


def test_things_look_as_they_are_called() -> None:
    """The mean colour inside a large square is its colour."""
    rng = np.random.Generator(np.random.PCG64(7))
    for name, rgb in COLOURS.items():
        scene = (Thing("shape", "square", name, "large"), *[None] * 8)
        inside = draw(scene, rng)[4:12, 4:12].reshape(-1, 3).mean(0)
        assert np.abs(inside - np.clip(np.asarray(rgb) * 0.975, 0, 255)).max() < 40


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(UserError, match=r"data\.n=50"):
        rows(50, 0)
