"""The evaluate stage: one artifact per benchmark of a suite, made in subprocesses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from coincide.errors import PartlyFailed
from coincide.ledger.result import Score
from coincide.models.template import encoding_of
from coincide.schema import ModelSource, UserError
from coincide.store import Artifact, Build, Step, Store
from coincide.store.step import need_fields
from coincide.system.files import write_atomic, write_json
from eval import mirror
from eval.journal import discard
from eval.process import follow
from eval.request import HOW, BenchmarkJob, EvaluationRequest
from eval.suite import Benchmark, Suite

VERSION = 1
FILES = ("samples.jsonl", "result.json")
"""Files of an eval artifact, in the order in which they are written."""


@dataclass(frozen=True)
class Evaluation:
    """Builds one eval artifact: the ``build`` of its step."""

    benchmark: Benchmark
    suite: Suite
    template: str
    adapted: bool
    """Whether the step needs base, adapter (and data) rather than base (and data)."""
    content: str | None = None
    """Hash of the benchmark's dataset, if it is on this machine."""

    def __call__(self, build: Build) -> Mapping[str, Any]:
        """Evaluate this benchmark alone; returns facts for the manifest."""
        [(_, facts)] = _results([build])
        return facts


def eval_steps(
    suite: Suite, *, model: ModelSource, base: Step, adapter: Step | None, data: Step
) -> list[Step]:
    """One step per benchmark: ``model`` with ``adapter`` (None: without one) on the benchmark.

    The artifact holds ``result.json`` (``scores``, each a :class:`coincide.ledger.result.Score`;
    ``n``, ``primary``, ``task_version``, ``lmms_eval``) and ``samples.jsonl`` (question, answer,
    target and score of every sample; read by ``coincide.ops.resample.resampling_units``). A
    benchmark
    whose judge is absent gets missing scores with the reason.
    """
    model_needs = (base,) if adapter is None else (base, adapter)
    measured = adapter.name if adapter else model.name
    steps = []
    for benchmark in suite.asked:
        config = suite.answer_config(benchmark)
        content = config.get("content")
        steps.append(
            Step(
                "eval",
                f"{benchmark.name}-{measured}",
                VERSION,
                {**config, "template": encoding_of(model.template)},
                Evaluation(benchmark, suite, model.template, adapter is not None, content),
                (*model_needs, data) if benchmark.data else model_needs,
                f"{benchmark.task}: {suite.protocol_text(benchmark)}",
            )
        )
    return steps


def evaluate(store: Store, steps: Sequence[Step]) -> list[Artifact]:
    """The artifacts of ``steps`` (all from one call of ``eval_steps``), missing ones built
    together.

    Each benchmark is committed as soon as it is done, so a killed evaluation resumes after the
    finished ones. Raises UserError, with the benchmark and the end of its log, if one fails.
    """

    def build(builds: list[Build]) -> None:
        for finished, facts in _results(builds):
            finished.commit(facts)

    return store.ensure_together(steps, build)


def _results(builds: Sequence[Build]) -> Iterator[tuple[Build, Mapping[str, Any]]]:
    """Evaluate the benchmarks of ``builds``; yield each build with its facts when it is done.

    Benchmarks over files of the data artifact share a process. Each of the others has a process of
    its own, in a folder in which the name of its dataset is a path to it. If one fails, the others
    are still evaluated before the error is raised.
    """
    waiting = []
    for build in builds:
        build.scratch = (HOW,)
        evaluation = _evaluation(build)
        if why := evaluation.suite.left_out(evaluation.benchmark):
            _leave_out(build, why)
        if all((build.dir / name).is_file() for name in FILES):
            discard(build.dir)
            yield build, _facts(build)  # left out, or done by an attempt killed before the commit
        else:
            waiting.append(build)
    own = [[build] for build in waiting if _evaluation(build).benchmark.dataset]
    together = [build for build in waiting if not _evaluation(build).benchmark.dataset]
    messages: list[str] = []
    failures: dict[str, str] = {}
    for group in [*([together] if together else []), *own]:
        left = {_evaluation(build).benchmark.name for build in group}
        try:
            for build, facts in _run(group):
                left.discard(_evaluation(build).benchmark.name)
                yield build, facts
        except UserError as error:
            known = error.failures if isinstance(error, PartlyFailed) else {}
            first = str(error).partition("\n")[0]
            messages.append(str(error))
            failures |= {name: known.get(name, first) for name in left}
    if failures:
        raise PartlyFailed("\n\n".join(messages), failures)


def _run(builds: Sequence[Build]) -> Iterator[tuple[Build, Mapping[str, Any]]]:
    """Run one process for ``builds``; yield each build with its facts when it is done."""
    named = {_evaluation(build).benchmark.name: build for build in builds}
    run = builds[0].store.root / ".runs" / f"eval-{builds[0].dir.name.lstrip('.')}"
    run.mkdir(parents=True, exist_ok=True)
    folder = folder_of(_evaluation(builds[0]), builds[0].store.root / ".cache")
    _request(builds, folder or builds[0].store.root / ".cache").write(run / "request.json")
    ranks = world_size(_evaluation(builds[0]).suite)
    for name, measured in follow(run, list(named), ranks=ranks, folder=folder):
        yield named[name], {**_facts(named[name]), **measured}
    shutil.rmtree(run)


def world_size(suite: Suite) -> int:
    """Number of evaluation processes; ``auto``: the number of GPUs, at least 1."""
    if suite.processes != "auto":
        return int(suite.processes)
    import torch

    return max(1, torch.cuda.device_count()) if suite.device == "auto" else 1


def folder_of(evaluation: Evaluation, cache: Path) -> Path | None:
    """The folder in which the process runs: the dataset's name is a path in it.

    None: any folder.
    Raises UserError if the dataset is not to be had.
    """
    dataset, splits = evaluation.benchmark.dataset, evaluation.benchmark.splits
    if dataset is None:
        return None
    place = mirror.find(dataset, splits, evaluation.suite.mirror_path)
    if place is None or evaluation.content is None:
        why = mirror.missing_message(dataset, splits, evaluation.suite.mirror_path)
        raise UserError(f"benchmark {evaluation.benchmark.name}: {why}")
    return mirror.view(dataset, place, evaluation.content, cache)


def _leave_out(build: Build, why: str) -> None:
    """Write the artifact of a benchmark that is not measured: missing scores with the reason
    ``why``.
    """
    benchmark = _evaluation(build).benchmark
    protocol = _evaluation(build).suite.protocol_text(benchmark)
    scores = [
        asdict(Score(benchmark.name, name, None, 0, protocol=protocol, why=why))
        for name in benchmark.metrics
    ]
    result = {"scores": scores, "n": 0, "primary": benchmark.primary, "task": benchmark.task}
    write_atomic(build.dir / "samples.jsonl", lambda path: path.touch())
    write_json(build.dir / "result.json", result)


def _evaluation(build: Build) -> Evaluation:
    evaluation = build.step.build
    assert isinstance(evaluation, Evaluation)
    return evaluation


def _facts(build: Build) -> dict[str, Any]:
    result = json.loads((build.dir / "result.json").read_text(encoding="utf-8"))
    values = {score["metric"]: score["value"] for score in result["scores"]}
    facts = {"n": result["n"], "primary": result["primary"], "score": values[result["primary"]]}
    with suppress(FileNotFoundError, ValueError):  # a benchmark that is left out has none
        facts |= json.loads((build.dir / HOW).read_text(encoding="utf-8"))
    failed = result.get("judge_failed", 0)
    return {**facts, "judge_failed": failed} if failed else facts


def _request(builds: Sequence[Build], cache: Path) -> EvaluationRequest:
    build, evaluation = builds[0], _evaluation(builds[0])
    suite = evaluation.suite
    return EvaluationRequest(
        model=str(build.need(0).path / "model"),
        adapter=str(build.need(1).path / "adapter") if evaluation.adapted else None,
        template=evaluation.template,
        dtype=suite.dtype,
        device=suite.device,
        batch_size=suite.batch_size,
        batch_tokens=suite.batch_tokens if suite.engine == "prefix" else None,
        threads=suite.threads,
        cache=str(cache),
        jobs=tuple(_job(each) for each in builds),
        likelihood=suite.likelihood,
        judge=suite.judge,
    )


def _job(build: Build) -> BenchmarkJob:
    benchmark = _evaluation(build).benchmark
    data = build.need(len(build.step.needs) - 1).path
    files = {split: file_of(data, path, benchmark) for split, path in benchmark.data.items()}
    return replace(job_of(_evaluation(build), build.dir, files), known=_earlier(build))


def _earlier(build: Build) -> list[str]:
    """Samples of other evaluations of the same model by the same task, as it was run: where only
    the scoring differs its answers stand there.
    """
    others = (a for a in build.store.artifacts("eval") if _answers_alike(a.manifest, build.step))
    sound = (a.path for a in others if not a.damaged("samples.jsonl"))
    return [str(path / "samples.jsonl") for path in sound]


def _answers_alike(manifest: Mapping[str, Any], step: Step) -> bool:
    """Whether an evaluation had the same model answer as ``step`` has, perhaps to other prompts."""
    had = {"version": manifest.get("version"), **manifest.get("config", {})}
    wanted = {"version": step.version, **step.config}
    same = ("version", "task", "template", "dtype", "batch", "engine")
    models = _models(manifest.get("needs", {})) == _models(need_fields(step.needs))
    return models and all(had.get(name) == wanted.get(name) for name in same)


def _models(needs: Mapping[str, str]) -> dict[str, str]:
    """Of what an evaluation was made from, the keys of all but the data."""
    return {k: v.rsplit("-", 1)[-1] for k, v in needs.items() if not k.endswith(".data")}


def job_of(evaluation: Evaluation, output: Path, files: Mapping[str, str]) -> BenchmarkJob:
    """The benchmark for the worker. ``files``: split -> path, of one over the data artifact."""
    benchmark = evaluation.benchmark
    return BenchmarkJob(
        name=benchmark.name,
        task=benchmark.task,
        metrics=dict(benchmark.metrics),
        primary=benchmark.primary,
        protocol=evaluation.suite.protocol_text(benchmark),
        output=str(output),
        tasks_dir=str(benchmark.tasks_path) if benchmark.tasks_path else None,
        overlay=str(benchmark.overlay_path) if benchmark.overlay_path else None,
        data_files=files,
        generation=dict(benchmark.generation),
        limit=benchmark.limit,
        where=dict(benchmark.where),
        subsample=benchmark.subsample,
        scale=benchmark.scale,
        parts=benchmark.parts,
        unit=benchmark.unit,
        judged=benchmark.judge,
        **benchmark.stated,
    )


def file_of(data: Path, relative: str, benchmark: Benchmark) -> str:
    """The path of a file of the data artifact. Raises UserError where it holds none such."""
    path = data / relative
    if not path.is_file():
        found = sorted(str(p.relative_to(data)) for p in data.glob("benchmarks/*/*.parquet"))
        raise UserError(
            f"benchmark {benchmark.name} reads {relative}, which the data artifact {data} does not "
            f"hold; it holds {', '.join(found) or 'no benchmark'}. Choose an eval suite that "
            "belongs to the data, e.g. eval=demo for data=demo."
        )
    return str(path)
