"""Signals of a subset's rows, computed with the target after it was finetuned on them.

The finetuning uses the run's own recipe, and its adapter is an artifact like that of any run. The
adapter is merged into the target, and the merged model passes over the rows of the subset only. A
method that teaches a model before it selects (PreSel's reference model) asks for this with
``TunedSignal``.

Signals of a warmed-up target (``AdaptedSignal``) are read off the base with the adapters of a
warm-up beside it, which are not merged: one pass reads all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from coincide.data.reasons import Reasons, merged
from coincide.features.extract import Extraction, signal_step
from coincide.needs import AdaptedSignal, Signal, TunedSignal, WarmUp, read_by
from coincide.protocols import HasDtype
from coincide.schema import Dataset, DataSource, ModelSource
from coincide.store import Build, Step
from coincide.store.artifact import find_recorded, open_artifact

if TYPE_CHECKING:
    from coincide.experiment import Experiment

VERSION = 1
OUTSIDE = "not in the subset"


@dataclass(frozen=True)
class TunedTarget:
    """What a pass needs to know about a finetuned target. Picklable: it is sent to every worker."""

    name: str
    template: str
    max_length: int
    dtype: str
    """Precision of the pass."""


@dataclass(frozen=True)
class SubsetRows:
    """The data of a subset: the whole dataset with all other rows dropped, so that indices stay.

    Picklable: it is sent to every worker.
    """

    source: DataSource

    @property
    def name(self) -> str:
        """The dataset's name."""
        return self.source.name

    @property
    def on_bad_row(self) -> str:
        """The dataset's policy."""
        return getattr(self.source, "on_bad_row", "error")

    def open(self, artifact: Path) -> Dataset:
        """The dataset of the subset artifact in ``artifact``, whose store also holds the data."""
        found = open_artifact(artifact)
        data = find_recorded(
            artifact.parent.parent, f"data/{found.manifest['needs']['needs.0.data']}"
        )
        assert data is not None, f"the data of {artifact} is not in the store"
        whole = self.source.open(data)
        outside = np.ones(len(whole), dtype=bool)
        outside[np.load(artifact / "rows.npy", allow_pickle=False)] = False
        others = Reasons.of(len(whole), [(np.flatnonzero(outside), OUTSIDE)])
        return replace(whole, dropped=merged(len(whole), others, whole.dropped))


def merged_target(model: ModelSource, adapter: Step) -> Step:
    """The step that merges ``adapter`` (a step of the train stage) into ``model``.

    Its artifact holds ``model/``, loadable with ``from_pretrained``.
    """

    def build(build: Build) -> Mapping[str, Any]:
        import torch
        from transformers import AutoConfig

        from coincide.models.load import load_model, load_processor
        from coincide.models.tuned import merge

        base = build.need(0).path / "model"
        stored = AutoConfig.from_pretrained(base, local_files_only=True).dtype or torch.float32
        network = load_model(base, stored, "cpu")
        merged = merge(network, build.need(1).path / "adapter")
        network.save_pretrained(build.dir / "model")
        load_processor(base).save_pretrained(build.dir / "model")
        return {"merged": merged}

    name = f"{model.name}-{adapter.name}"
    return Step("merged", name, VERSION, {}, build, needs=(model.step(), adapter))


def tuned_extractions(experiment: Experiment) -> dict[TunedSignal, Extraction]:
    """Step and pass of each signal of a part of the rows that the experiment's method reads off a
    finetuned or a warmed-up target."""
    found = {}
    for need in experiment.needs:
        if isinstance(need, TunedSignal):
            learnt = experiment.others[need.subset]
            if isinstance(need.signal, AdaptedSignal):
                warmup = experiment.warmups[need.signal.adapter]
                found[need] = adapted_extraction(need.signal, experiment, warmup, learnt.subset)
            else:
                found[need] = extraction_after_training(need.signal, learnt)
    return found


def warmup_steps(experiment: Experiment) -> dict[WarmUp, Step]:
    """The step of each warm-up that the experiment's method, or a signal of it, asks for."""
    asked = dict.fromkeys(
        each.adapter if isinstance(each, AdaptedSignal) else each
        for need in experiment.needs
        for each in (need, *read_by(need))
        if isinstance(each, AdaptedSignal | WarmUp)
    )
    target, others = experiment.target, experiment.others
    return {
        need: experiment.finetuning.warmup_step(
            need,
            experiment.recipe,
            model=target,
            base=target.step(),
            source=experiment.source,
            data=experiment.data,
            subset=others[need.subset].subset,
            seed=others[need.subset].seed,
        )
        for need in asked
    }


def adapted_of(experiment: Experiment) -> list[Extraction]:
    """The signals that the experiment's method reads off a warmed-up target, of the pool's rows, of
    some of them and of the target rows. Where it reads none, nothing is looked for: the data may
    not be there yet.
    """
    asked = (each for need in experiment.needs for each in (need, *read_by(need)))
    if not any(isinstance(each, AdaptedSignal) for each in asked):
        return []
    tables = (experiment.extractions, experiment.target_extractions, experiment.tuned)
    found = [each for table in tables for each in table.values()]
    return [each for each in found if isinstance(each.signal, AdaptedSignal)]


def extraction_after_training(signal: Signal, learnt: Experiment) -> Extraction:
    """Step and pass of ``signal`` for the rows of ``learnt.subset``, with the model
    ``learnt.merged``.
    """
    model: Any = _described(learnt)
    rows: Any = SubsetRows(learnt.source)
    signal_pass = type(signal).make_pass(model, rows, learnt.features)
    step = signal_step(signal, signal_pass, data=learnt.subset, base=learnt.merged)
    return Extraction(signal, step, signal_pass)


def adapted_extraction(
    signal: AdaptedSignal,
    experiment: Experiment,
    warmup: Step,
    over: DataSource | Step,
    after: tuple[Step, ...] = (),
) -> Extraction:
    """Step and pass of ``signal`` with the experiment's target and the adapters of ``warmup``.

    ``over``: a dataset, with the scans ``after`` that must be done first; or the step of a subset
    of the experiment's data, for its rows alone.
    """
    target = _described(experiment)
    longest = min(target.max_length, experiment.recipe.max_length)
    model: Any = replace(target, max_length=longest)  # a row is cut as it is in training
    part = isinstance(over, Step)
    source: Any = SubsetRows(experiment.source) if part else over
    signal_pass = type(signal).make_pass(model, source, experiment.features)
    data = over if isinstance(over, Step) else over.step()
    step = signal_step(signal, signal_pass, data=data, base=warmup, after=after)
    return Extraction(signal, step, signal_pass)


def _described(experiment: Experiment) -> TunedTarget:
    """What a pass of the experiment's target needs to know; precision of the target, if it states
    one, or of the reference.
    """
    target = experiment.target
    said = [each.dtype for each in (target, experiment.reference) if isinstance(each, HasDtype)]
    dtype = next(filter(None, said), "float32")
    return TunedTarget(target.name, target.template, target.max_length, dtype)
