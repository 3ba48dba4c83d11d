"""Make a run's result from its artifacts."""

from __future__ import annotations

import json
import time
from calendar import timegm
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from coincide.ledger.identity import asked_hash
from coincide.ledger.result import Cost, Result, Score
from coincide.protocols import HasLabel
from coincide.schema import Method
from coincide.store import Artifact, Step, Store
from coincide.store.provenance import commit, hardware, versions


def collect(
    store: Store,
    *,
    features: Sequence[Step],
    before: Sequence[Step],
    subset: Step,
    adapter: Step | None,
    scores: Sequence[Step],
    names: Mapping[str, str],
    seed: int,
    config: Any,
    contents: Mapping[str, str] | None = None,
    aside: Sequence[str] = (),
    failures: Mapping[str, str] | None = None,
) -> Result:
    """The :class:`Result` of finished artifacts.

    Of an unfinished run ``adapter`` is None or ``scores`` are empty. ``before``: steps that
    selection depends on, e.g. clusters. ``failures``: benchmark -> reason,
    for benchmarks without an artifact; their scores are missing. Seconds are those of the builds,
    not of cache hits; signals of one pass, and benchmarks of one process, share a clock, so the
    longest counts.
    """
    chosen = store.verify(subset)
    failed = failures or {}
    measured = {
        step.key: (store.verify(step), asked_hash(step))
        for step in scores
        if step.config["benchmark"] not in failed
    }
    seconds = {
        "features": _longest(store, features),
        "select": sum(_seconds(store, step) for step in [*before, subset]),
    }
    if adapter is not None:
        seconds["train"] = store.artifact(adapter).seconds
    if scores:
        seconds["evaluate"] = _longest(store, scores)
    return Result(
        **names,
        budget=chosen.facts["budget"],
        k=chosen.facts["k"],
        seed=seed,
        scores=tuple(
            score
            for step in scores
            for score in (
                _scores(*measured[step.key])
                if step.key in measured
                else _missing(step, failed[step.config["benchmark"]])
            )
        ),
        lenient=tuple(s for found in measured.values() for s in _scores(*found, "lenient")),
        likelihood=tuple(s for found in measured.values() for s in _scores(*found, "likelihood")),
        seconds=seconds,
        keys={
            **{step.kind: step.folder for step in (subset, adapter) if step is not None},
            **{f"eval.{step.name}": step.folder for step in scores},
        },
        costs=_costs(store, features, before, subset, adapter, scores),
        hardware=hardware(),
        composition=chosen.facts["composition"],
        contents=dict(contents or {}),
        aside=tuple(aside),
        config=config,
        versions=versions(),
        commit=commit(),
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )


def remarks(store: Store, scores: Sequence[Score]) -> list[str]:
    """Lines that a reader of the scores should know about how the benchmarks were run."""
    found = []
    for place in dict.fromkeys(score.samples for score in scores if score.samples):
        record = json.loads((store.root / place / "result.json").read_text(encoding="utf-8"))
        if count := record.get("pictures_moved"):
            [name] = {score.benchmark for score in scores if score.samples == place}
            found.append(
                f"{name}: the questions of {count:,} of {record['n']:,} documents name their "
                "pictures out of order or twice; lmms-eval shows them in the order of their "
                "numbers, and may leave out text (pictures_moved in samples.jsonl)."
            )
    return found


def variant_of(method: Method) -> str:
    """What tables show after the method's name: its ``label`` or ``variant``.

    Empty without either.
    """
    return method.label if isinstance(method, HasLabel) else ""


def _missing(step: Step, why: str) -> list[Score]:
    """Scores of a benchmark that failed, all missing for the reason ``why``."""
    protocol = step.note.partition(": ")[2]
    said, what = f"the evaluation failed: {why}", asked_hash(step)
    return [
        Score(step.config["benchmark"], name, None, 0, protocol=protocol, why=said, asked=what)
        for name in step.config["metrics"]
    ]


def _scores(artifact: Artifact, what: str, reading: str = "scores") -> list[Score]:
    """The scores of the strict or ``lenient`` reading, or the ``likelihood``; empty if there are
    none.
    """
    record = json.loads((artifact.path / "result.json").read_text(encoding="utf-8"))
    samples = f"{artifact.path.parent.name}/{artifact.path.name}"
    drawn = {name: record[name] for name in ("unit", "units") if name in record}
    asked = what if reading == "scores" or not what else f"{what}, {reading}"
    told = {**drawn, "samples": samples, "asked": asked}
    return [replace(Score(**score), **told) for score in record.get(reading, [])]


def _costs(
    store: Store,
    features: Sequence[Step],
    before: Sequence[Step],
    subset: Step,
    adapter: Step | None,
    scores: Sequence[Step],
) -> tuple[Cost, ...]:
    """Cost of each artifact that still exists, including the models that features come from."""
    models = [need for step in features for need in step.needs if need.kind == "model"]
    stages = {
        "reference": models,
        "features": features,
        "select": [*before, subset],
        "train": [adapter] if adapter else [],
        "evaluate": scores,
    }
    trained = [
        _cost("reference", a) for model in _found(store, models) for a in _merged(store, model)
    ]
    return tuple(trained) + tuple(
        _cost(stage, artifact)
        for stage, steps in stages.items()
        for artifact in _found(store, steps)
    )


def _merged(store: Store, model: Artifact) -> list[Artifact]:
    """The adapter of this store that was merged into ``model``, found by the hash of its
    weights.
    """
    digest = model.manifest["config"].get("adapter")
    found = [
        artifact
        for artifact in store.artifacts("adapter")
        if digest and digest in {file["sha256"] for file in artifact.files.values()}
    ]
    return found[:1]


def _found(store: Store, steps: Iterable[Step]) -> list[Artifact]:
    unique = {step.key: step for step in steps}.values()
    return [artifact for step in unique if (artifact := store.find(step)) is not None]


def _cost(stage: str, artifact: Artifact) -> Cost:
    manifest = artifact.manifest
    ended = timegm(time.strptime(manifest["created"], "%Y-%m-%dT%H:%M:%SZ"))
    gpus = len(manifest["environment"].get("hardware", {}).get("gpus", ()))
    used = min(gpus, int(artifact.facts.get("world_size", 1)))
    folder = f"{manifest['kind']}/{artifact.path.name}"
    return Cost(stage, folder, artifact.seconds, round(ended - artifact.seconds, 3), used)


def _seconds(store: Store, step: Step) -> float:
    """Seconds that the step's build took; 0 if the artifact was deleted."""
    found = store.find(step)
    return found.seconds if found else 0.0


def _longest(store: Store, steps: Sequence[Step]) -> float:
    return max((_seconds(store, step) for step in steps), default=0.0)
