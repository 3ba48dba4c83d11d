"""The evaluate stage: model + suite -> one artifact per benchmark, through one subprocess."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coincide.schema import ModelSource, UserError
from coincide.store import Artifact, Build, Step, Store
from eval.process import follow
from eval.request import Job, Request
from eval.suite import Benchmark, Suite

VERSION = 1
FILES = ("samples.jsonl", "result.json")
"""Of an eval artifact, in the order in which they are written."""


@dataclass(frozen=True)
class Evaluation:
    """What builds one eval artifact: the ``build`` of its step."""

    benchmark: Benchmark
    suite: Suite
    template: str
    adapted: bool
    """Whether the needs are base, adapter, data rather than base, data."""

    def __call__(self, build: Build) -> Mapping[str, Any]:
        """Evaluate this benchmark alone; facts for the manifest."""
        [(_, facts)] = _results([build])
        return facts


def eval_steps(
    suite: Suite, *, model: ModelSource, base: Step, adapter: Step | None, data: Step
) -> list[Step]:
    """One step per benchmark: ``model`` with ``adapter`` (None: as it is) on the benchmark.

    The artifact holds ``result.json`` (``scores``, each a :class:`coincide.schema.Score`; ``n``,
    ``primary``, ``task_version``, ``lmms_eval``) and ``samples.jsonl`` (question, answer, target
    and score of every sample). Raises UserError for a benchmark that needs a judge model.
    """
    needs = (base, data) if adapter is None else (base, adapter, data)
    measured = adapter.name if adapter else model.name
    for benchmark in suite.benchmarks.values():
        _refuse_judge(benchmark)
    return [
        Step(
            "eval",
            f"{benchmark.name}-{measured}",
            VERSION,
            {**benchmark.answer_config(), "template": model.template, "dtype": suite.dtype},
            Evaluation(benchmark, suite, model.template, adapter is not None),
            needs,
            f"{benchmark.task}: {benchmark.protocol_text}",
        )
        for benchmark in suite.benchmarks.values()
    ]


def evaluate(store: Store, steps: Sequence[Step]) -> list[Artifact]:
    """The artifacts of ``steps`` (all of one ``eval_steps``), the missing ones built together.

    Each benchmark is committed as soon as it is done, so a killed evaluation resumes at the
    finished ones. Raises UserError with the benchmark and its last log lines when one fails.
    """

    def build(builds: list[Build]) -> None:
        for finished, facts in _results(builds):
            finished.commit(facts)

    return store.ensure_together(steps, build)


def _results(builds: Sequence[Build]) -> Iterator[tuple[Build, Mapping[str, Any]]]:
    """Run what is missing in one process; yield each build with its facts when it is done."""
    waiting = {}
    for build in builds:
        if all((build.dir / name).is_file() for name in FILES):
            yield build, _facts(build)  # done by an attempt that was killed before the commit
        else:
            waiting[_evaluation(build).benchmark.name] = build
    if not waiting:
        return
    first = next(iter(waiting.values()))
    run = first.store.root / ".runs" / f"eval-{first.dir.name.removeprefix('.partial-')}"
    run.mkdir(parents=True, exist_ok=True)
    _request(list(waiting.values())).write(run / "request.json")
    for name, measured in follow(run, benchmarks=len(waiting)):
        yield waiting[name], {**_facts(waiting[name]), **measured}
    shutil.rmtree(run)


def _evaluation(build: Build) -> Evaluation:
    evaluation = build.step.build
    assert isinstance(evaluation, Evaluation)
    return evaluation


def _facts(build: Build) -> dict[str, Any]:
    result = json.loads((build.dir / "result.json").read_text(encoding="utf-8"))
    values = {score["metric"]: score["value"] for score in result["scores"]}
    return {"n": result["n"], "primary": result["primary"], "score": values[result["primary"]]}


def _request(builds: Sequence[Build]) -> Request:
    build, evaluation = builds[0], _evaluation(builds[0])
    suite = evaluation.suite
    return Request(
        model=str(build.need(0).path / "model"),
        adapter=str(build.need(1).path / "adapter") if evaluation.adapted else None,
        template=evaluation.template,
        dtype=suite.dtype,
        device=suite.device,
        batch_size=suite.batch_size,
        threads=suite.threads,
        cache=str(build.store.root / ".cache"),
        jobs=tuple(_job(each) for each in builds),
    )


def _job(build: Build) -> Job:
    benchmark = _evaluation(build).benchmark
    data = build.need(len(build.step.needs) - 1).path
    return Job(
        name=benchmark.name,
        task=benchmark.task,
        metrics=dict(benchmark.metrics),
        primary=benchmark.primary,
        protocol=benchmark.protocol_text,
        output=str(build.dir),
        tasks_dir=str(benchmark.tasks_path) if benchmark.tasks_path else None,
        data_files={split: _file(data, path, benchmark) for split, path in benchmark.data.items()},
        generation=dict(benchmark.generation),
        limit=benchmark.limit,
    )


def _file(data: Path, relative: str, benchmark: Benchmark) -> str:
    path = data / relative
    if not path.is_file():
        found = sorted(str(p.relative_to(data)) for p in data.glob("benchmarks/*/*.parquet"))
        raise UserError(
            f"benchmark {benchmark.name} reads {relative}, which the data artifact {data} does not "
            f"hold; it holds {', '.join(found) or 'no benchmark'}. Choose an eval suite that "
            "belongs to the data, e.g. eval=demo for data=demo."
        )
    return str(path)


def _refuse_judge(benchmark: Benchmark) -> None:
    if benchmark.judge:
        raise UserError(
            f"benchmark {benchmark.name} is scored by a judge model. lmms-eval turns a failed "
            "judge into a score, so such benchmarks are refused; leave it out of the suite."
        )
