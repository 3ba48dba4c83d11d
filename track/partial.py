"""The result of a run that is not finished: what exists after a stage, as a ``Result``."""

from __future__ import annotations

from coincide.experiment import Experiment
from coincide.ledger.collect import variant_of
from coincide.ledger.identity import fields_outside_key
from coincide.schema import Result
from coincide.store import Step
from coincide.store.provenance import commit, versions


def partial_result(experiment: Experiment, stage: str) -> Result:
    """A result without scores: the subset and, unless ``stage`` is ``select``, the adapter."""
    store = experiment.store
    chosen = store.artifact(experiment.subset)
    made = [experiment.subset] if stage == "select" else [experiment.subset, experiment.adapter]
    before = [*experiment.clusterings.values(), *experiment.difficulties.values()]
    before += [experiment.scored] if experiment.scored else []

    def seconds(step: Step) -> float:
        found = store.find(step)
        return found.seconds if found else 0.0

    took = {
        "features": max((seconds(experiment.signal(s)) for s in experiment.signals), default=0.0),
        "select": sum(seconds(step) for step in [*before, experiment.subset]),
    }
    if stage != "select":
        took["train"] = seconds(experiment.adapter)
    return Result(
        method=experiment.method.name,
        variant=variant_of(experiment.method),
        data=experiment.source.name,
        reference=experiment.reference.name if experiment.asks("reference") else "",
        target=experiment.target.name,
        suite=experiment.suite.name,
        budget=chosen.facts["budget"],
        k=chosen.facts["k"],
        seed=experiment.seed,
        scores=(),
        seconds=took,
        keys={step.kind: step.folder for step in made},
        composition=chosen.facts["composition"],
        contents=experiment.contents(),
        aside=tuple(fields_outside_key(experiment.method, experiment.recipe)),
        config=experiment.config,
        versions=versions(),
        commit=commit(),
    )
