"""Signals of a subset's rows, read off the target after it was finetuned on them.

The finetuning is the run's own (its recipe), the adapter an artifact like that of any run; it is
merged into the target, and the merged model passes over the rows of the subset alone. A method that
teaches a model a little before it selects (PreSel's reference model) names this as ``TunedSignal``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from coincide.features.extract import Extraction, signal_step
from coincide.protocols import HasDtype
from coincide.schema import Dataset, DataSource, ModelSource, Signal
from coincide.store import Build, Step
from coincide.store.artifact import located, open_artifact

if TYPE_CHECKING:
    from coincide.experiment import Experiment

VERSION = 1
OUTSIDE = "not in the subset"


@dataclass(frozen=True)
class MergedTarget:
    """What a pass has to know of the merged model. Sent to every worker."""

    name: str
    template: str
    max_length: int
    dtype: str
    """Precision of the pass."""


@dataclass(frozen=True)
class SubsetRows:
    """The data of a subset: the whole dataset with all other rows dropped, so that a row keeps its
    index. Sent to every worker."""

    source: DataSource

    @property
    def name(self) -> str:
        """That of the dataset."""
        return self.source.name

    @property
    def on_bad_row(self) -> str:
        """The dataset's policy."""
        return getattr(self.source, "on_bad_row", "error")

    def open(self, artifact: Path) -> Dataset:
        """``artifact``: the folder of a subset, in the store that holds its data."""
        found = open_artifact(artifact)
        data = located(artifact.parent.parent, f"data/{found.manifest['needs']['needs.0.data']}")
        assert data is not None, f"the data of {artifact} is not in the store"
        whole = self.source.open(data)
        outside = np.ones(len(whole), dtype=bool)
        outside[np.load(artifact / "rows.npy", allow_pickle=False)] = False
        others = dict.fromkeys(np.flatnonzero(outside).tolist(), OUTSIDE)
        return replace(whole, dropped={**others, **whole.dropped})


def merged_target(model: ModelSource, adapter: Step) -> Step:
    """The artifact of ``model`` with ``adapter``, a step of the train stage, merged in:
    ``model/``, loadable by ``from_pretrained``.
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


def read_off(signal: Signal, learnt: Experiment) -> Extraction:
    """How ``signal`` of the rows of ``learnt.subset`` is read off ``learnt.merged``."""
    target = learnt.target
    said = [each.dtype for each in (target, learnt.reference) if isinstance(each, HasDtype)]
    dtype = next(filter(None, said), "float32")
    model: Any = MergedTarget(target.name, target.template, target.max_length, dtype)
    rows: Any = SubsetRows(learnt.source)
    signal_pass = type(signal).make_pass(model, rows, learnt.features)
    step = signal_step(signal, signal_pass, data=learnt.subset, base=learnt.merged)
    return Extraction(signal, step, signal_pass)
