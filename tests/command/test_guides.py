"""The guides' dataset and benchmark, as they stand there: composed, read, asked."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, Image
from omegaconf import OmegaConf
from PIL import Image as Pictures

import run as program
from eval.loading import load_tasks
from eval.request import BenchmarkJob
from eval.suite import Benchmark
from eval.worker import evaluate
from tests.eval.scripted import Answerer

DOCS = Path(__file__).resolve().parents[2] / "docs"


def blocks(guide: str) -> dict[str, str]:
    """The code of ``docs/<guide>`` by the path that its first line names."""
    text = (DOCS / guide).read_text(encoding="utf-8")
    found = re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", text, re.S)
    return dict(found)


def test_the_guides_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = blocks("ADD_A_DATASET.md")
    (tmp_path / "csv_of_the_guide.py").write_text(code["coincide/data/csv_questions.py"])
    shutil.copytree(program.CONF, tmp_path / "conf")
    yaml = code["conf/data/csv_questions.yaml"]
    assert "coincide.data.csv_questions." in yaml
    (tmp_path / "conf" / "data" / "csv_questions.yaml").write_text(
        yaml.replace("coincide.data.csv_questions.", "csv_of_the_guide.")
    )
    (tmp_path / "p").mkdir()
    rows = [("p/a.png", "what is it?", "a cat"), ("", "two and two?", "four")] * 10
    rows += [("p/a.png", "and this?", "")]
    Pictures.new("RGB", (32, 32), "red").save(tmp_path / "p" / "a.png")
    with (tmp_path / "q.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([("picture", "question", "answer"), *rows])
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(program, "CONF", tmp_path / "conf")
    monkeypatch.chdir(tmp_path)

    words = ["data=csv_questions", "data.annotations=q.csv", "data.images=.", "reference=tiny",
             "target=tiny", "train=demo", "eval=demo", "method=random", "budget=5",
             "data.on_bad_row=drop", "health.invalid_rows=0.1", "stages=[select]"]  # fmt: skip
    (job,) = program.compose_all(words)
    program.executor(job).run(job)
    data = job.experiment.store.artifact(job.experiment.data)
    assert data.facts["rows"] == 21 and data.facts["dropped"] == 1
    subset = job.experiment.store.artifact(job.experiment.subset).path
    chosen = np.load(subset / "rows.npy")
    assert len(chosen) == 5 and 20 not in chosen
    for row, record in zip(chosen, json.loads((subset / "subset.json").read_text()), strict=True):
        assert record["conversations"][1]["value"] == rows[row][2]
        assert ("image" in record) == bool(rows[row][0])


def test_the_guides_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMMS_EVAL_DATASETS_CACHE", str(tmp_path / "cache"))
    code = blocks("ADD_A_BENCHMARK.md")
    (tmp_path / "my_tasks").mkdir()
    for name in ("my_tasks/colours.yaml", "my_tasks/utils.py"):
        (tmp_path / name).write_text(code[name])
    values = OmegaConf.to_container(OmegaConf.create(code["conf/benchmark/colours.yaml"]))
    assert isinstance(values, dict) and values.pop("_target_") == "eval.suite.Benchmark"
    measured = Benchmark(**{**values, "tasks_dir": str(tmp_path / "my_tasks")})  # type: ignore[misc]
    documents = {
        "question": ["what colour?", "and this?", "which?"],
        "answer": ["red", "Blue", "green"],
        "image": [Pictures.new("RGB", (8, 8), "red"), None, None],
    }
    table = Dataset.from_dict(documents).cast_column("image", Image())
    table.to_parquet(tmp_path / "test.parquet")
    job = BenchmarkJob(
        measured.name, measured.task, measured.metrics, measured.primary, measured.protocol_text,
        str(tmp_path), tasks_dir=str(measured.tasks_path),
        data_files={"test": str(tmp_path / "test.parquet")},
    )  # fmt: skip
    manager, tasks = load_tasks([job], tmp_path / "loaded")
    said = ["Red.", "green", "green"]
    evaluate(Answerer(lambda task, doc, i: said[i]), job, tasks[job.name], manager)
    (score,) = json.loads((tmp_path / "result.json").read_text())["scores"]
    assert (score["value"], score["n"]) == (pytest.approx(2 / 3), 3)
    assert score["protocol"].startswith("split=test; prompt=one word; scoring=exact word")
