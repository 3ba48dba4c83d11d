"""Whether what a run's settings name is there: sources, rows and ids of the data, layers of the
models. Looked at when data and models are in the store, before hours are spent on them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from coincide.experiment import Experiment
from coincide.features.extract import Extraction
from coincide.protocols import HasDataChecks
from coincide.schema import UserError
from coincide.store import Step, Store


def check_fit(experiment: Experiment, store: Store) -> None:
    """Raise UserError, with the choices, for a setting of the method, or of one that it builds on,
    that names what data or models do not have.
    """
    check_rows(experiment, store)
    check_layers([*experiment.wanted, *experiment.all_tuned], _bases(experiment), store)


def check_rows(experiment: Experiment, store: Store) -> None:
    """The part of :func:`check_fit` on the data, if its artifact is there."""
    asked = [m for m in experiment.methods if isinstance(m, HasDataChecks) and m.names_data]
    artifact = store.find(experiment.data) if asked else None
    if artifact is not None:
        examples = experiment.source.open(artifact.path).examples
        for method in asked:
            method.check_data(examples)


def check_layers(wanted: Iterable[Extraction], bases: Sequence[Step], store: Store) -> None:
    """Raise UserError for a signal of ``wanted`` that reads a block which its model does not have.

    ``bases``: steps of models; a signal of none of them is read off the last, after training.
    Looked at where the model's artifact is there.
    """
    depths = {base.key: _depth(store, base) for base in bases}
    for each in wanted:
        keys = [need.key for need in each.step.needs if need.key in depths]
        depth = depths[keys[-1] if keys else bases[-1].key]
        beyond = sorted(layer for layer in _layers(each.signal) if depth and not 0 <= layer < depth)
        if depth and beyond:
            raise UserError(
                f"layers {beyond} do not exist: the signal {each.signal.name} is read off a model "
                f"with layers 0 to {depth - 1}. Set method.layers (method.layer), or "
                "reference.layers, where they are from."
            )


def _bases(experiment: Experiment) -> list[Step]:
    """The models that signals are read off, the target last."""
    models = [part.step() for name, part in experiment.models.items() if experiment.asks(name)]
    return [*models, experiment.target.step()]


def _layers(signal: Any) -> Iterator[int]:
    """The blocks that a signal of a language model reads; none for others."""
    taps = getattr(signal, "taps", None)
    return iter(tap.layer for tap in taps()) if taps else iter(())


def _depth(store: Store, base: Step) -> int | None:
    """Number of blocks of a model's decoder; None where that is not known."""
    artifact = store.find(base)
    path = artifact.path / "model" / "config.json" if artifact else Path("none")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    text = config.get("text_config") if isinstance(config, dict) else None
    count = text.get("num_hidden_layers") if isinstance(text, dict) else None
    return count if isinstance(count, int) else None
