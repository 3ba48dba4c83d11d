"""Documents are tried before training; one that fails is named, and other benchmarks are kept."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coincide.errors import PartlyFailed
from coincide.schema import UserError
from coincide.store import Store
from eval import made as small
from eval import process, stage
from eval.documents import TaskDocuments
from eval.examine import examine, kinds
from eval.loading import load_tasks
from eval.request import BenchmarkJob
from eval.stage import evaluate
from tests.eval import hub
from tests.eval.hub import DatasetSplit, write
from tests.eval.real import benchmark, job, steps, suite
from tests.eval.scripted import Answerer

OWN = """
task: own
dataset_path: parquet
dataset_kwargs: {data_files: {test: none.parquet}}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.visual
doc_to_text: question
doc_to_target: answer
process_results: !function utils.score
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
UTILS = """
def visual(doc):
    return [doc["image"].convert("RGB")]


def score(doc, results):
    return {"exact_match": float(results[0].split() == doc["answer"].split())}
"""
COLUMNS = {"question": small.TEXT, "answer": small.TEXT, "image": small.Image()}


def rows(**change: Any) -> list[dict[str, Any]]:
    """Six documents, the fourth with ``change``."""
    made = [
        {"question": f"what {i}", "answer": "red", "image": hub.picture(i), "question_id": f"q{i}"}
        for i in range(6)
    ]
    made[3] |= change
    return made


def own(folder: Path, documents: list[dict[str, Any]], **columns: Any) -> tuple[Any, BenchmarkJob]:
    """A task of one's own over these documents, loaded."""
    (folder / "tasks").mkdir()
    (folder / "tasks" / "own.yaml").write_text(OWN)
    (folder / "tasks" / "utils.py").write_text(UTILS)
    kept = {k: v for k, v in {**COLUMNS, "question_id": small.TEXT, **columns}.items() if v}
    data = write(folder / "mirror", "own", [DatasetSplit("test", kept, documents)])
    made = BenchmarkJob(
        "own", "own", {"accuracy": "exact_match"}, "accuracy", "", str(folder),
        str(folder / "tasks"), {"test": str(next(data.glob("default/*.parquet")))},
    )  # fmt: skip
    with hub.offline(folder / "cache"):
        return load_tasks([made], folder / "overlays")[1]["own"], made


def png(size: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(out, "PNG")
    return out.getvalue()[:size]


def test_sound_documents_pass(tmp_path: Path) -> None:
    task, made = own(tmp_path, rows())
    examine(task, made)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"answer": None}, r"row 3 \(question_id 'q3'\): scoring .*its empty columns: answer"),
        ({"image": None}, r"row 3 \(question_id 'q3'\): asking .*its empty columns: image"),
    ],
)
def test_an_empty_column_is_named_with_its_document(
    change: dict[str, Any], says: str, tmp_path: Path
) -> None:
    task, made = own(tmp_path, rows(**change))
    with pytest.raises(UserError, match=f"benchmark own, {says}"):
        examine(task, made)


def test_columns_of_another_name_or_type_are_named(tmp_path: Path) -> None:
    task, made = own(tmp_path, rows(), answer=None)
    with pytest.raises(UserError, match=r"row 0 .* KeyError: 'answer'; its columns: question, im"):
        examine(task, made)
    task.config.process_results = None
    with pytest.raises(UserError, match="doc_to_target is 'answer', which is no column; there are"):
        examine(task, made)
    numbers = [{**row, "answer": i} for i, row in enumerate(rows())]
    (tmp_path / "b").mkdir()
    task, made = own(tmp_path / "b", numbers, answer=small.WHOLE)
    with pytest.raises(UserError, match=r"benchmark own, row 0 .*: scoring fails with Attribute"):
        examine(task, made)


def test_a_broken_picture_names_its_row_wherever_it_is_met(tmp_path: Path) -> None:
    """Also in the middle of an evaluation, after those before it were answered."""
    broken = {"bytes": png(40), "path": "a.png"}
    task, _ = own(tmp_path, rows(image=broken))
    documents = task.eval_docs
    assert isinstance(documents, TaskDocuments) and documents[2]["image"].mode == "RGB"
    with pytest.raises(UserError, match=r"benchmark own, row 3: the picture .*does not decode"):
        documents[3]
    first = [{**row, "image": broken} for row in rows()[:1]]
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match=r"own does not load: .*the picture a\.png does not decode"):
        own(tmp_path / "b", first)


def test_documents_of_every_kind_are_tried_and_no_more(tmp_path: Path) -> None:
    made = rows(answer="")
    made[5] |= {"image": None}
    task, _ = own(tmp_path, made)
    assert kinds(task.eval_docs) == [0, 3, 5]


def test_rows_are_those_of_the_file_when_only_some_are_asked(tmp_path: Path) -> None:
    task, made = own(tmp_path, rows(image=None))
    chosen = replace(made, where={"question_id": "q3"})
    with hub.offline(tmp_path / "cache"):
        task = load_tasks([chosen], tmp_path / "overlays")[1]["own"]
    model = Answerer(lambda name, doc, i: "red")
    model.task_dict = {"own": task.dataset}
    task.build_all_requests()
    with pytest.raises(UserError, match=r"benchmark own, row 3 \(question_id 'q3'\): asking"):
        model.generate_until(task.instances)


@pytest.mark.slow
def test_a_run_is_stopped_before_training_and_what_passed_is_not_tried_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    tables = small.pope()
    tables[0].rows[7]["image"] = None
    write(tmp_path / "mirror", "POPE", tables)
    wanted = steps(store, suite("paper", tmp_path / "mirror", "pope"))
    with pytest.raises(UserError, match=r"benchmark pope, row 7 \(question_id '3'\): asking"):
        stage.examine(store, wanted)
    write(tmp_path / "mirror", "POPE", small.pope())
    wanted = steps(store, suite("paper", tmp_path / "mirror", "pope"))
    stage.examine(store, wanted)
    monkeypatch.setattr(process, "WORKER", "nothing.there")
    stage.examine(store, wanted)


def test_a_failure_tells_which_benchmarks_it_was(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here for want of data; the reason stands in the ledger in the place of the score."""
    made = steps(store, suite("paper", tmp_path / "mirror", "pope gqa"))
    with pytest.raises(PartlyFailed) as error:
        evaluate(store, made)
    assert set(error.value.failures) == {"pope", "gqa"}
    assert "lmms-lab-encoder/POPE is neither" in error.value.failures["pope"]


def test_limits_count_whole_questions(tmp_path: Path) -> None:
    """A cut pair of MME, or a question by half its rotations, gives no number or a false one."""
    mirror = hub.mirror(tmp_path / "mirror")
    with hub.offline(tmp_path / "cache"), pytest.MonkeyPatch.context() as patch:
        patch.chdir(mirror)
        jobs = [
            replace(job(benchmark("mme"), tmp_path / "mme"), limit=3),
            replace(job(benchmark("mmbench_en"), tmp_path / "mmbench_en"), limit=2),
        ]
        _, tasks = load_tasks(jobs, tmp_path / "tasks")
    assert [doc["question_id"] for doc in tasks["mme"].eval_docs] == (
        ["existence/0000.png"] * 2 + ["existence/0001.png"] * 2
    )
    assert [doc["index"] % 1_000_000 for doc in tasks["mmbench_en"].eval_docs] == [7] * 4
