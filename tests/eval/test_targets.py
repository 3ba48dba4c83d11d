"""The dev split of a benchmark as target rows: what its task asks, and never its questions."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch as replaced

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import run as program
from coincide.data.demo.dev import DemoDev
from coincide.schema import Dataset, UserError
from coincide.store import Store
from eval import made, targets, worker
from eval.suite import Benchmark
from eval.targets import BenchmarkTargets, answer_of
from tests.eval.hub import offline


@pytest.fixture(autouse=True)
def inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process of its own, in this one."""

    def run(work: Path, folder: Path | None, name: str) -> None:
        with (
            replaced.dict(os.environ),
            offline(work / "cache"),
            pytest.MonkeyPatch.context() as here,
        ):
            here.chdir(folder or Path.cwd())
            here.setattr(worker, "offline", lambda cache: None)
            targets.main(work / "request.json")

    monkeypatch.setattr(targets, "_run", run)


def chosen(*words: str) -> Any:
    """The targets of a command line."""
    (job,) = program.compose_all(["method=rds", "data=demo", *words])
    return job.experiment.targets


def opened(source: Any, root: Path) -> Dataset:
    store = Store(root / "store")
    return source.open(store.ensure(source.step()).path)


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ScienceQA with a validation split of five other questions."""
    (test,) = made.scienceqa()
    rows = [{**row, "question": f"Dev: {row['question']}", "image": made.picture(100 + i)}
            for i, row in enumerate(test.rows[:5])]  # fmt: skip
    root = tmp_path_factory.mktemp("mirror")
    made.write(root, "ScienceQA", [test, replace(test, split="validation", rows=rows)])
    return root


def test_a_split_of_a_hub_dataset_becomes_rows_that_its_task_asks(
    mirror: Path, tmp_path: Path
) -> None:
    words = ["targets=benchmark", "benchmark@targets.benchmarks.one=scienceqa_img"]
    source = chosen(*words, "targets.split=validation", f"targets.mirror={mirror}")
    assert source.name == "scienceqa_img-validation"
    assert [r.met for r in source.requirements()] == [True]
    found = opened(source, tmp_path)
    assert len(found.examples) == 5
    assert {example.source for example in found.examples} == {"scienceqa_img"}
    first = found.examples[0]
    asked, answered = (turn.text for turn in first.turns)
    assert asked.startswith("<image>\n") and "Dev: Which 0?" in asked and "A. iron" in asked
    assert answered == "A" and [e.turns[-1].text for e in found.examples] == list("ABCAB")
    assert first.images and (tmp_path / "store/data").exists()
    fewer = replace(source, rows=3)
    assert fewer.step().key != source.step().key
    assert len(opened(fewer, tmp_path).examples) == 3


def test_what_the_benchmark_itself_asks_is_refused(mirror: Path) -> None:
    words = ["targets=benchmark", "benchmark@targets.benchmarks.one=scienceqa_img"]
    with pytest.raises(UserError, match="targets must not be the questions"):
        chosen(*words, "targets.split=test")
    with pytest.raises(UserError, match="has the splits test, validation"):
        chosen(*words, "targets.split=dev", f"targets.mirror={mirror}").step()
    with pytest.raises(UserError, match=r"split dev: dataset .*ScienceQA"):
        chosen(*words, "targets.split=dev", "targets.mirror=nowhere").step()
    with pytest.raises(UserError, match="reads several tables"):
        chosen("targets=benchmark", "benchmark@targets.benchmarks.one=gqa", "targets.split=train")


def test_a_file_takes_the_datasets_place_and_rows_without_an_answer_are_counted(
    tmp_path: Path,
) -> None:
    words = ["targets=benchmark", "benchmark@targets.benchmarks.one=demo_counting"]
    with pytest.raises(UserError, match=r"targets.files=\{counting: FILE.parquet\}"):
        chosen(*words, "targets.split=dev")
    image = {"bytes": made_png(), "path": "0.png"}
    columns = {
        "question_id": [0, 1, 2], "image": [image, None, image], "category": ["a"] * 3,
        "question": ["How many?", "And how many?", "None?"], "answer": ["two", "three", ""],
    }  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "dev.parquet")
    source = chosen(
        *words, "targets.split=dev", f"targets.files={{counting: {tmp_path}/dev.parquet}}"
    )
    found = opened(source, tmp_path)
    assert [[t.text for t in e.turns] for e in found.examples] == [
        ["<image>\nHow many?", "two"], ["And how many?", "three"],
    ]  # fmt: skip
    facts = Store(tmp_path / "store").artifact(source.step()).facts
    assert facts["rows of counting"] == 2 and facts["without an answer in counting"] == 1


def made_png() -> bytes:
    import io

    buffer = io.BytesIO()
    made.picture(3).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("target", "answer"),
    [("x ", "x"), (1, "wood"), (7, "7"), (["b", "a", "a"], "a"), ([], ""), (None, ""), ({}, "")],
)
def test_a_target_of_any_kind_is_one_text(target: Any, answer: str) -> None:
    class Task:
        class config:
            doc_to_choice = "choices"

        def doc_to_choice(self, document: Any) -> list[str]:
            return ["iron", "wood"]

    assert answer_of(target, Task(), {}) == answer


def test_two_benchmarks_need_names_of_their_own() -> None:
    one = Benchmark("a", "t", {"m": "m"}, "m", {}, data={"test": "x"})
    with pytest.raises(UserError, match="different names"):
        BenchmarkTargets({"x": one, "y": one}, "dev")
    with pytest.raises(UserError, match=r"targets.rows=0; expected an int >= 1"):
        BenchmarkTargets({"x": one}, "dev", files={"a": "f"}, rows=0)


def test_the_demos_targets_are_none_of_its_questions(tmp_path: Path) -> None:
    (job,) = program.compose_all(["method=rds", "data=demo", "targets=demo", "data.n=200"])
    source = job.experiment.targets
    assert isinstance(source, DemoDev)
    found = opened(source, tmp_path)
    assert len(found.examples) == source.size() == 70
    artifact = Store(tmp_path / "store").ensure(job.experiment.data).path
    asked = {
        row["image"]["bytes"]
        for path in artifact.glob("benchmarks/*/test.parquet")
        for row in pq.read_table(path).to_pylist()
        if row["image"]
    }
    shown = {(found.image_root / e.images[0]).read_bytes() for e in found.examples}
    assert len(asked) > 1000 and len(shown) == 70 and not asked & shown
    assert len({e.source for e in found.examples}) == 7
