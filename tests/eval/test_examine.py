"""Documents are tried before training; one that fails is named, and other benchmarks are kept."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from coincide.errors import PartlyFailed
from coincide.schema import UserError
from coincide.store import Build, Step, Store
from eval import before
from eval import made as small
from eval.columns import check
from eval.documents import TaskDocuments
from eval.examine import examine, kinds
from eval.loading import load_each, load_tasks
from eval.request import BenchmarkJob
from eval.stage import eval_steps, evaluate
from eval.suite import Benchmark, Suite
from tests.eval import hub
from tests.eval.bench import TinyModel, make_parquet
from tests.eval.hub import DatasetSplit, write
from tests.eval.inside import worker_inside
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
    with pytest.raises(
        UserError, match=r"own does not load: row 0: the picture a\.png does not dec"
    ):
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


ONE = r"row 0 \(question_id 100\): "
BROKEN = [{"bytes": b"x", "path": "a"}] * 6


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"answer": pa.array([None] * 3 + ["a"] * 3)}, f"{ONE}answer is None; expected a text"),
        ({"answer": pa.array(["a", "b", None, "c", "d", "e"])}, r"row 2 .*102\): answer is None"),
        ({"answer": pa.array(range(6))}, f"{ONE}answer is 0; expected a text"),
        ({"question": pa.array([None, *"abcde"])}, f"{ONE}question is None"),
        ({"answer": None}, "has no column answer; it has question_id, image, question, category"),
        ({"image": None}, "has no column image"),
        ({"image": pa.array(BROKEN)}, "row 0: the picture in image does not decode"),
    ],
)
def test_the_demos_documents_are_looked_at_without_lmms_eval(
    change: dict[str, Any], says: str, tmp_path: Path
) -> None:
    path = tmp_path / "test.parquet"
    make_parquet(path, "counting", rows=6)
    check(path, "counting")
    table = pq.read_table(path)
    for name, column in change.items():
        at = table.column_names.index(name)
        table = table.set_column(at, name, column) if column else table.remove_column(at)
    pq.write_table(table, path)
    with pytest.raises(UserError, match=f"benchmark counting.*{says}"):
        check(path, "counting")
    path.write_bytes(path.read_bytes()[:99])
    with pytest.raises(UserError, match="cut off after 99 bytes"):
        check(path, "counting")


def test_own_tasks_over_the_data_artifact_are_tried_once(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.yaml").write_text(OWN)
    (tmp_path / "utils.py").write_text(UTILS)
    measured = Benchmark(
        "own", "own", {"accuracy": "exact_match"}, "accuracy", {}, tasks_dir=str(tmp_path),
        data={"test": "own.parquet"},
    )  # fmt: skip

    def wanted(answer: str | None) -> list[Step]:
        def build(build: Build) -> None:
            kept = {**COLUMNS, "question_id": small.TEXT}
            data = write(build.dir, "own", [DatasetSplit("test", kept, rows(answer=answer))])
            next(data.glob("default/*.parquet")).rename(build.dir / "own.parquet")

        data, base = Step("data", "own", 1, {"answer": answer}, build), TinyModel().step()
        made = Suite("one", {"own": measured})
        return eval_steps(made, model=TinyModel(), base=base, adapter=None, data=data)

    made = worker_inside(monkeypatch, lambda *_: "")
    before.examine(store, wanted(None))  # the artifact is not there yet
    store.ensure(wanted(None)[0].needs[-1])
    with pytest.raises(UserError, match=r"benchmark own, row 3 .*'q3'\): scoring fails"):
        before.examine(store, wanted(None))
    store.ensure(wanted("red")[0].needs[-1])
    before.examine(store, wanted("red"))
    monkeypatch.setattr(before, "follow", None)
    before.examine(store, wanted("red"))
    assert made == [], "no model"


def test_one_that_does_not_load_leaves_the_others(tmp_path: Path) -> None:
    """And a task is that of its own folder, whatever others are called."""
    task, sound = own(tmp_path, rows())
    other = tmp_path / "other"
    other.mkdir()
    (other / "own.yaml").write_text(OWN.replace("exact_match", "right"))
    (other / "utils.py").write_text(UTILS.replace("exact_match", "right"))
    (other / "broken.yaml").write_text("task: [")
    (other / "several.yaml").write_text("group: several\ntask: [own]")
    at = {"tasks_dir": str(other)}
    jobs = [
        replace(sound, name="missing", task="nothing"),
        replace(sound, name="gone", data_files={"test": str(tmp_path / "gone.parquet")}),
        replace(sound, name="second", **at),
        replace(sound, name="several", task="several", **at),
        replace(sound, name="broken", task="broken", **at),
        replace(sound, name="column", where={"colour": "red"}),
        sound,
    ]
    with hub.offline(tmp_path / "cache"):
        _, tasks, failed = load_each(jobs, tmp_path / "overlays")
    assert list(tasks) == ["second", "own"]
    assert list(tasks["second"].aggregation()) == ["right"] != list(task.aggregation())
    assert list(failed) == ["missing", "several", "broken", "gone", "column"]
    assert all(str(why).startswith(f"benchmark {name}") for name, why in failed.items())
    assert "'several' is group of" in str(failed["several"])
    assert "gone.parquet" in str(failed["gone"]) and "broken.yaml" in str(failed["broken"])


def test_a_run_is_stopped_before_training_and_what_passed_is_not_tried_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    models = worker_inside(monkeypatch, lambda *_: "")
    tables = small.pope()
    tables[0].rows[7]["image"] = None
    write(tmp_path / "mirror", "POPE", tables)
    wanted = steps(store, suite("paper", tmp_path / "mirror", "pope"))
    with pytest.raises(UserError, match=r"benchmark pope, row 7 \(question_id '3'\): asking"):
        before.examine(store, wanted)
    write(tmp_path / "mirror", "POPE", small.pope())
    wanted = steps(store, suite("paper", tmp_path / "mirror", "pope"))
    before.examine(store, wanted)
    monkeypatch.setattr(before, "follow", None)
    before.examine(store, wanted)
    assert models == []


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
