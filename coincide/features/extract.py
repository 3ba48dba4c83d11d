"""One pass of the reference model over a dataset: every signal that any method asked for.

Rows are cut into shards by row index; inside a shard, batches hold rows of like length, and each
value lands at its row again. Batch size, token budget, shard size and device are outside the key,
so the reference model computes in a precision (``reference.dtype``) that makes the stored
float16 the same for all of them; ``tests/features`` holds us to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from coincide.config import FeaturePass
from coincide.features.shards import has_shard, read_valid, write_shard
from coincide.features.signals import kind
from coincide.schema import (
    ClipSource,
    Dataset,
    DataSource,
    Example,
    ModelSource,
    Signal,
    UserError,
)
from coincide.store import Artifact, Build, Step, Store, write_json

if TYPE_CHECKING:
    from coincide.models.encode import Encoded

VERSION = 1


Computer = Callable[[Sequence[Example], Any], tuple[list[np.ndarray], np.ndarray]]
"""Examples of a shard and a progress bar -> the values [n, D] of each signal, valid bool [n]."""


class OnePass(Protocol):
    """A pass of one model over one dataset that yields several signals together."""

    @property
    def model(self) -> ModelSource | ClipSource: ...
    @property
    def source(self) -> DataSource: ...
    @property
    def options(self) -> FeaturePass: ...
    def config(self) -> dict[str, Any]:
        """What of the pass changes the values."""
        ...

    def computer(self, missing: Sequence[tuple[Signal, Build]], dataset: Dataset) -> Computer:
        """Load the model once."""
        ...


@dataclass(frozen=True)
class Pass:
    """What the reference model's pass reads, with what, and how fast."""

    model: ModelSource
    source: DataSource
    dtype: str
    """Precision of the reference model, a torch name; in the key."""
    options: FeaturePass

    def config(self) -> dict[str, Any]:
        """What of the pass changes the values."""
        return {
            "template": self.model.template,
            "max_length": self.model.max_length,
            "dtype": self.dtype,
        }

    def computer(self, missing: Sequence[tuple[Signal, Build]], dataset: Dataset) -> Computer:
        """Load the model once; return what turns the examples of a shard into their values."""
        return _computer(missing, dataset, self)


def signal_step(signal: Signal, over: OnePass, *, data: Step, base: Step) -> Step:
    """The artifact of one signal; :func:`extract` builds several of them in one pass."""
    params = {k: v if isinstance(v, str) else list(v) for k, v in signal.params}
    config = {"signal": signal.name, "params": params, **over.config()}

    def alone(build: Build) -> dict[str, Any]:
        _fill([(signal, build)], over)
        return _facts(build)

    name = f"{signal.name}-{over.model.name}-{over.source.name}"
    return Step("features", name, VERSION, config, alone, needs=(data, base))


def extract(store: Store, steps: Mapping[Signal, Step], over: OnePass) -> list[Artifact]:
    """The artifacts of ``steps``; the missing ones come out of one pass over the data."""
    signals = {step.key: signal for signal, step in steps.items()}

    def build(builds: list[Build]) -> None:
        _fill([(signals[b.step.key], b) for b in builds], over)
        for each in builds:
            each.commit(_facts(each))

    return store.ensure_together(list(steps.values()), build)


def _facts(build: Build) -> dict[str, Any]:
    invalid = np.flatnonzero(~read_valid(build.dir)).tolist()
    return {"invalid": len(invalid), "invalid_rows": invalid[:100]}


def _fill(missing: Sequence[tuple[Signal, Build]], over: OnePass) -> None:
    """Write the shards that the builds lack, each shard for all of them at once."""
    from coincide.progress import bar

    builds = [build for _, build in missing]
    dataset = over.source.open(builds[0].need(0).path)
    shards = _layout(builds, len(dataset), over.options.shard_rows)
    todo = [i for i in range(len(shards)) if not all(has_shard(b.dir, i) for b in builds)]
    if len(todo) < len(shards):
        print(f"features: resumed at shard {todo[0] if todo else len(shards)} of {len(shards)}")
    if not todo:
        return
    compute = over.computer(missing, dataset)
    with bar("features", total=sum(len(shards[i]) for i in todo), unit="row") as progress:
        for i in todo:
            values, valid = compute([dataset.examples[row] for row in shards[i]], progress)
            for (signal, build), value in zip(missing, values, strict=True):
                write_shard(build.dir, i, value.astype(kind(signal).dtype), valid)


def _layout(builds: Sequence[Build], rows: int, shard_rows: int) -> list[range]:
    """Row ranges of the shards. A resumed build keeps the size that it was begun with."""
    import json

    for build in builds:
        file = build.dir / "layout.json"
        if file.is_file():
            shard_rows = json.loads(file.read_text(encoding="utf-8"))["shard_rows"]
    for build in builds:
        write_json(build.dir / "layout.json", {"shard_rows": shard_rows, "rows": rows})
    return [range(start, min(start + shard_rows, rows)) for start in range(0, rows, shard_rows)]


def _computer(missing: Sequence[tuple[Signal, Build]], dataset: Dataset, over: Pass) -> Computer:
    """Load the model once; return what turns the examples of a shard into their values."""
    import torch

    from coincide.features.capture import check_layers, decoder_layers, run, shortened
    from coincide.features.readers import read
    from coincide.features.signals import width
    from coincide.models.encode import collate, encode
    from coincide.models.load import load_model, load_processor
    from coincide.models.template import TEMPLATES

    signals = [signal for signal, _ in missing]
    folder = missing[0][1].need(1).path / "model"
    device = device_of(over.options.device)
    processor = load_processor(folder)
    network = load_model(folder, dtype=getattr(torch, over.dtype), device=device)
    check_layers(signals, len(decoder_layers(network)))
    template = TEMPLATES[over.model.template]
    widths = [width(signal, network.config.get_text_config().hidden_size) for signal in signals]

    def encoded(example: Example) -> Encoded | None:
        if example.row in dataset.dropped:
            return None
        found = encode(example, dataset, processor, template, over.model.max_length)
        return found if found.text_mask.any() else None

    def compute(examples: Sequence[Example], progress: Any) -> tuple[list[np.ndarray], np.ndarray]:
        items = [encoded(example) for example in examples]
        valid = np.array([item is not None for item in items])
        values = [np.zeros((len(examples), width)) for width in widths]
        progress.update(int((~valid).sum()))
        with torch.inference_mode(), shortened(network, signals):
            for indices in _batches(items, over.options):
                group = [item for i in indices if (item := items[i]) is not None]
                batch = collate(group, processor.tokenizer.pad_token_id)
                captured = run(network, {k: v.to(device) for k, v in batch.items()}, signals)
                rows = [examples[i].row for i in indices]
                for signal, whole in zip(signals, values, strict=True):
                    part = read(signal, captured).cpu().numpy()
                    whole[indices] = _checked(part, signal, rows)
                progress.update(len(indices))
        return values, valid

    return compute


def _batches(items: Sequence[Encoded | None], options: FeaturePass) -> Iterator[list[int]]:
    """Indices of the usable rows in batches of like length, longest first."""
    order = sorted(
        (i for i, item in enumerate(items) if item is not None),
        key=lambda i: (-len(items[i].input_ids), i),  # type: ignore[union-attr]
    )
    batch: list[int] = []
    for i in order:
        longest = len(items[(batch or [i])[0]].input_ids)  # type: ignore[union-attr]
        tokens = longest * (len(batch) + 1)
        if batch and (len(batch) >= options.batch_size or tokens > options.batch_tokens):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _checked(values: np.ndarray, signal: Signal, rows: Sequence[int]) -> np.ndarray:
    """``values`` [B, D] unless they would not survive storage; never zeroed silently."""
    with np.errstate(over="ignore"):
        stored = values.astype(kind(signal).dtype)
    bad = np.isinf(stored) if signal.name == "token_scores" else ~np.isfinite(stored)
    if bad.any():
        named = [rows[i] for i in np.flatnonzero(bad.any(axis=1)).tolist()][:10]
        raise UserError(
            f"{signal.name}: NaN or infinite values in rows {named}. The reference model overflows "
            "on them in this precision: set reference.dtype=float32, or drop those rows."
        )
    return values


def device_of(wanted: str) -> str:
    """``wanted``, or for ``auto`` the first GPU where there is one."""
    import torch

    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


def usable_rows(folders: Sequence[Path]) -> np.ndarray:
    """bool [N]: rows that are valid in every one of the signal artifacts at ``folders``."""
    return np.logical_and.reduce([read_valid(folder) for folder in folders])
