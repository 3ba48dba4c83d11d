"""Evaluations whose judge failed are unfinished for the next run, and for nothing else."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import Any

import pytest

from coincide.stages import stages_of
from coincide.store import Step
from launch.execute import Executor
from launch.jobs import Job
from launch.local import Local
from launch.plan import plan_nodes
from launch.submit import plan_sweep
from tests.launch.conftest import Compose, pretend


@pytest.fixture
def job(compose: Compose) -> Job:
    """A run whose artifacts are all there; the judge of one benchmark failed twice."""
    (job,) = compose("method=random")
    for stage in stages_of(job.experiment, job.stages):
        pretend(job, *stage.steps)
    folder = job.experiment.store.path(judged(job))
    manifest = {"key": judged(job).key, "facts": {"judge_failed": 2}, "seconds": 40.0}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for name in ("samples.jsonl", "judge.jsonl", "result.json"):
        (folder / name).write_text(name)
    return job


NONE: Any = None
"""No observer: nothing is told to it."""


def judged(job: Job) -> Step:
    return job.experiment.scores[0]


def at_start(job: Job) -> list[bool]:
    """Whether the evaluation is finished when a local run of ``job`` is carried out."""
    found: list[bool] = []

    class Looks(Executor):
        def run(self, job: Job) -> None:
            found.append(job.experiment.store.find(judged(job)) is not None)

    assert Local().launch([job], Looks(NONE)) == 0
    return found


def test_a_run_takes_it_up_with_answers_and_replies(
    job: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan_nodes([job]) == []
    assert at_start(job) == [False]
    assert "2 judge calls failed; asking for them again" in capsys.readouterr().out
    (node,) = plan_nodes([job])
    assert [step.key for step in node.steps] == [judged(job).key]
    partial = job.experiment.store.root / "eval" / f".partial-{judged(job).key[:12]}"
    kept = {path.name for path in partial.iterdir()}
    assert kept == {"samples.jsonl", "judge.jsonl", ".attempts"}
    again = job.experiment.store.ensure(replace(judged(job), build=lambda build: None))
    assert (again.manifest["attempts"], round(again.seconds)) == (2, 40)


def test_so_does_a_sweep_unless_it_is_on_its_way(job: Job) -> None:
    step = judged(job)
    (node,) = plan_sweep([job], lambda job: True, {})
    assert [s.key for s in node.steps] == [step.key]
    assert plan_sweep([job], lambda job: True, {step.key: "7"})[0].after_jobs == ("7",)


def test_a_dry_run_only_says_so(
    compose: Compose, job: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    (dry,) = compose("method=random", "dry_run=true")
    assert at_start(dry) == [True]
    assert "2 judge calls failed; a run asks for them again" in capsys.readouterr().out


def test_nothing_is_trained_for_it(job: Job) -> None:
    shutil.rmtree(job.experiment.store.path(job.experiment.adapter))
    assert at_start(job) == [True]
