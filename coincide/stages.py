"""The stages of an experiment as steps to build: prepare, features, select, train, evaluate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from coincide.experiment import Experiment
from coincide.features.extract import Extraction, extract_all
from coincide.fit import check_fit
from coincide.ledger.collect import collect, variant_of
from coincide.ledger.identity import fields_outside_key
from coincide.ledger.result import Result
from coincide.pipeline import Stage
from coincide.selection.stage import check_lost
from coincide.store import Step, Store


def stages_of(experiment: Experiment, wanted: Iterable[str]) -> list[Stage]:
    """``prepare`` (data, models, scans), then the stages up to the last of ``wanted``, in order.

    Later stages are not made, so their parts need not be available.
    """
    goals = set(wanted)
    stages: list[Stage] = []
    for make in (_features, _select, _train, _evaluate):
        stages.append(make(experiment))
        goals.discard(stages[-1].name)
        if not goals - {"report"}:
            break
    return [_prepare(experiment, stages), *stages]


def _features(experiment: Experiment) -> Stage:
    steps = tuple(each.step for each in experiment.wanted)
    return Stage("features", steps, partial(_extract, experiment))


def _select(experiment: Experiment) -> Stage:
    steps = (*experiment.selecting, experiment.subset)
    return Stage("select", steps, partial(_choose, experiment))


def _train(experiment: Experiment) -> Stage:
    return Stage("train", (experiment.adapter,))


def _evaluate(experiment: Experiment) -> Stage:
    return Stage("evaluate", tuple(experiment.scores), experiment.evaluation.evaluate)


def _prepare(experiment: Experiment, stages: Sequence[Stage]) -> Stage:
    """The data, models and scans that the steps of ``stages`` depend on."""
    steps = [step for stage in stages for step in stage.steps]
    scans = [scan for step in steps for scan in step.after]
    needs = [need for step in (*steps, *scans) for need in step.needs]
    found = {s.key: s for s in (experiment.data, *needs) if s.kind in ("data", "model")}
    found |= {scan.key: scan for scan in scans}
    return Stage("prepare", tuple(found.values()))


def _extract(experiment: Experiment, store: Store, steps: Sequence[Step]) -> None:
    """Compute the signals of ``experiment`` and, in the same passes, those of the command's other
    runs.
    """
    mine = {_pass_of(each) for each in experiment.wanted}
    others = [o for o in experiment.siblings if o is not experiment and _alike(experiment, o)]
    more = [each for other in others for each in other.wanted if _pass_of(each) in mine]
    extract(experiment, store, [*experiment.wanted, *more])


def _choose(experiment: Experiment, store: Store, steps: Sequence[Step]) -> None:
    """Build ``steps`` in order; signals that come from one finetuned model are computed
    together.
    """
    check_fit(experiment, store)
    asked = {step.key for step in steps}
    tuned = {each.step.key: each for each in experiment.all_tuned if each.step.key in asked}
    for step in steps:
        if step.key in tuned:
            of = _pass_of(tuned[step.key])
            extract_all(store, [each for each in tuned.values() if _pass_of(each) == of])
        else:
            store.ensure(step)


def extract(experiment: Experiment, store: Store, wanted: Sequence[Extraction]) -> None:
    """Compute ``wanted``; HealthError if the data of ``experiment`` has lost too many rows.

    UserError for a setting that does not fit data or models.
    """
    check_fit(experiment, store)
    check_lost(store.artifact(experiment.data), experiment.health)
    extract_all(store, wanted)


def _alike(one: Experiment, other: Experiment) -> bool:
    """Whether both use the same data and models."""
    parts = ((e.source, e.models, e.targets) for e in (one, other))
    return next(parts) == next(parts)


def _pass_of(each: Extraction) -> tuple[str, ...]:
    """Keys of the data and model of the pass that computes ``each``."""
    return tuple(need.key for need in each.step.needs)


def result_of(
    experiment: Experiment,
    failures: Mapping[str, str] | None = None,
    *,
    upto: str = "evaluate",
) -> Result:
    """The run's result, read from the artifacts of the stages up to ``upto``: ``select``,
    ``train`` or ``evaluate``.

    ``failures``: benchmarks that have no artifact, with the reason.
    """
    adapted = {each.step.key for each in experiment.adapted}
    return collect(
        experiment.store,
        features=[each.step for each in (*experiment.wanted, *experiment.adapted)],
        before=[step for step in experiment.selecting if step.key not in adapted],
        subset=experiment.subset,
        adapter=None if upto == "select" else experiment.adapter,
        scores=experiment.scores if upto == "evaluate" else (),
        names={
            "method": experiment.method.name,
            "variant": variant_of(experiment.method),
            "data": experiment.source.name,
            "reference": experiment.reference.name if experiment.asks("reference") else "",
            "target": experiment.target.name,
            "suite": experiment.suite.name,
        },
        contents=experiment.contents(),
        aside=fields_outside_key(experiment.method, experiment.recipe),
        seed=experiment.seed,
        config=experiment.config,
        failures=failures or {},
    )
