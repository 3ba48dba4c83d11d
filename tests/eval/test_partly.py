"""A benchmark that fails on a document: the run's other scores reach ledger and report, by every
launcher, and the failed one is missing with the reason."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import run as program
from coincide.errors import PartlyFailed
from coincide.experiment import Experiment
from coincide.ledger.files import read_ledger
from coincide.ledger.result import Score
from coincide.report.build import build_report
from coincide.schema import UserError
from coincide.store import Build
from coincide.system.files import write_json
from launch.execute import Executor
from launch.jobs import Job, with_stages
from launch.plan import KEY_DIGITS
from launch.submit import plan_sweep, record_cached
from tests.command.conftest import SMALL
from tests.eval.bench import make_parquet
from tests.eval.inside import worker_inside

WHY = r"benchmark counting, row 3 \(question_id 103\): scoring fails with AttributeError"


@dataclass
class Told:
    """The observer: stages with the benchmarks that failed."""

    of: list[tuple[str, set[str]]] = field(default_factory=list)

    def after(
        self, stage: str, experiment: Experiment, failures: Mapping[str, str] | None = None
    ) -> None:
        self.of.append((stage, set(failures or {})))

    def finish(self, experiments: Any) -> None: ...


def compose(*words: str) -> Job:
    """A run of two benchmarks."""
    (job,) = program.compose_all([*SMALL, "method=random", *words])
    suite = job.experiment.suite
    kept = {name: suite.benchmarks[name] for name in ("attributes", "counting")}
    job.experiment.suite = replace(suite, device="cpu", benchmarks=kept)
    return job


def make(build: Build) -> dict[str, Any] | None:
    """What the scores stand on, without work: in the data of counting an answer is missing."""
    if build.step.kind == "data":
        for name in ("attributes", "counting"):
            make_parquet(build.dir / "benchmarks" / name / "test.parquet", name, rows=6)
        lose_answer(build.dir / "benchmarks" / "counting" / "test.parquet", 3)
        return {"rows": 240}
    if build.step.kind == "scan":
        (build.dir / "rows.json").write_text('{"refused": {}, "unlearnt": {}}')
    if build.step.kind == "subset":
        np.save(build.dir / "rows.npy", np.arange(48))
        return {"budget": 0.2, "k": 48, "composition": {"demo": 48}}
    return None


def lose_answer(path: Path, row: int) -> None:
    table = pq.read_table(path)
    answers = table.column("answer").to_pylist()
    answers[row] = None
    at = table.column_names.index("answer")
    pq.write_table(table.set_column(at, "answer", pa.array(answers, pa.string())), path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which the run is made but for its scores."""
    root = tmp_path_factory.mktemp("made") / "store"
    experiment = compose(f"paths.store={root}").experiment
    needs = [need for step in experiment.scores for need in step.needs]
    for step in (experiment.data, experiment.scan, *needs, experiment.subset):
        experiment.store.ensure(replace(step, build=make))
    return root


@pytest.fixture
def job(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made, tmp_path / "store")
    worker_inside(monkeypatch, lambda name, document, number: str(document["answer"]))
    return compose()


def recorded(job: Job) -> dict[str, Score]:
    """The line of the ledger: its scores by benchmark."""
    [found] = read_ledger(Path(job.cfg.paths.ledger))
    return {score.benchmark: score for score in found.scores}


def queued(job: Job, told: Told) -> None:
    Executor(told).steps([job], [s.planned[:KEY_DIGITS] for s in job.experiment.scores])


def local(job: Job, told: Told) -> None:
    Executor(told).run(with_stages(job, "select", "train", "evaluate"))


@pytest.mark.parametrize("carry_out", [queued, local])
def test_what_the_others_scored_is_kept_and_the_failure_is_told(
    carry_out: Callable[[Job, Told], None], job: Job, tmp_path: Path
) -> None:
    told = Told()
    with pytest.raises(PartlyFailed, match=WHY) as error:
        carry_out(job, told)
    assert set(error.value.failures) == {"counting"}
    scores = recorded(job)
    assert scores["attributes"].value == 1.0 and scores["attributes"].samples
    assert scores["counting"].value is None
    assert re.match(f"the evaluation failed: {WHY}", scores["counting"].why)
    assert told.of[-1] == ("evaluate", {"counting"})
    pages = build_report(read_ledger(tmp_path / "ledger"), tmp_path / "reports")
    assert "the evaluation failed: benchmark counting, row 3" in pages["md"].read_text()


def test_a_line_that_lacks_scores_is_completed_when_they_are_there(job: Job) -> None:
    with pytest.raises(PartlyFailed):
        queued(job, Told())
    record_cached(job)
    assert recorded(job)["counting"].value is None, "nothing has changed"
    step = next(s for s in job.experiment.scores if s.config["benchmark"] == "counting")
    benchmark = step.build.benchmark

    def measure(build: Build) -> None:
        score = Score("counting", "accuracy", 0.5, 6, protocol=benchmark.protocol_text)
        write_json(build.dir / "result.json", {"scores": [asdict(score)], "n": 6})

    job.experiment.store.ensure(replace(step, build=measure))
    record_cached(job)
    assert recorded(job)["counting"].value == 0.5
    assert recorded(job)["attributes"].value == 1.0


def test_without_any_score_nothing_is_recorded(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str, document: dict[str, Any], number: int) -> str:
        raise RuntimeError("no answers")

    worker_inside(monkeypatch, refuse)
    for carry_out in (queued, local):
        with pytest.raises(PartlyFailed, match="no answers"):
            carry_out(job, Told())
    assert not (tmp_path / "ledger").exists()


def test_a_job_that_would_train_tries_documents_first(job: Job) -> None:
    """Here by columns alone: the tasks are the demo's."""
    shutil.rmtree(job.experiment.store.path(job.experiment.adapter))
    keys = [s.planned[:KEY_DIGITS] for s in (job.experiment.adapter, *job.experiment.scores)]
    row = r"benchmark counting, row 3 \(question_id 103\): answer is None; expected a text"
    for carry_out in (lambda: Executor(Told()).steps([job], keys), lambda: local(job, Told())):
        with pytest.raises(UserError, match=row):
            carry_out()
    with pytest.raises(UserError, match=row):
        plan_sweep([job], lambda job: True, {})
    assert plan_sweep([with_stages(job, "select", "train")], lambda job: True, {})
    assert job.experiment.store.find(job.experiment.adapter) is None
