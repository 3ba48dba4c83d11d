"""The artifacts of a run -> its line in the ledger."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from coincide.provenance import commit, versions
from coincide.schema import Result, Score
from coincide.store import Artifact, Step, Store


def collect(
    store: Store,
    *,
    features: Sequence[Step],
    before: Sequence[Step],
    subset: Step,
    adapter: Step,
    scores: Sequence[Step],
    names: Mapping[str, str],
    seed: int,
    config: Any,
) -> Result:
    """The :class:`Result` of finished artifacts. ``before``: clusters and the like that selection
    stands on. Seconds are those of the builds, not of hits.

    Signals of one pass, and benchmarks of one process, were timed together: the longest counts.
    """
    chosen = store.artifact(subset)
    evaluated = [store.artifact(step) for step in scores]
    seconds = {
        "features": _longest(store, features),
        "select": sum(_seconds(store, step) for step in [*before, subset]),
        "train": store.artifact(adapter).seconds,
        "evaluate": _longest(store, scores),
    }
    return Result(
        **names,
        budget=chosen.facts["budget"],
        k=chosen.facts["k"],
        seed=seed,
        scores=tuple(score for artifact in evaluated for score in _scores(artifact)),
        seconds=seconds,
        keys={
            **{step.kind: step.folder for step in [subset, adapter]},
            **{f"eval.{step.name}": step.folder for step in scores},
        },
        composition=chosen.facts["composition"],
        config=config,
        versions=versions(),
        commit=commit(),
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )


def _scores(artifact: Artifact) -> list[Score]:
    record = json.loads((artifact.path / "result.json").read_text(encoding="utf-8"))
    return [Score(**score) for score in record["scores"]]


def _seconds(store: Store, step: Step) -> float:
    """Zero when the artifact was deleted after what it served was built."""
    found = store.find(step)
    return found.seconds if found else 0.0


def _longest(store: Store, steps: Sequence[Step]) -> float:
    return max((_seconds(store, step) for step in steps), default=0.0)
