"""One pass of the reference model over a dataset: every signal that any method asked for.

Rows are cut into shards by row index; inside a shard, batches hold rows of like length, and each
value lands at its row again. Shards are taken one by one by workers: on the GPUs of this machine,
and in other processes and on other nodes that are asked for the same signals (``torchrun``,
``srun``, tasks of an array), which join in instead of waiting.

Batch size, token budget, shard size, processes and device are outside the key, so the reference
model computes in a precision (``reference.dtype``) that makes the stored float16 the same for all
of them; ``tests/features`` holds us to it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from coincide.config import FeaturePass
from coincide.features.claims import Claims
from coincide.features.places import decoders_of, devices_of, rank_of
from coincide.features.shards import read_valid
from coincide.features.work import (
    LEADER,
    POLL,
    Tally,
    Work,
    claims_beside,
    do_shards,
    layout_of,
)
from coincide.features.workers import run_workers
from coincide.files import write_json
from coincide.schema import (
    ClipSource,
    Dataset,
    DataSource,
    Example,
    ModelSource,
    Signal,
    UserError,
)
from coincide.store import Artifact, Build, Step, Store

VERSION = 1
DTYPES = ("bfloat16", "float16", "float32", "float64")
"""Precisions of a pass. All run with PyTorch's fused attention (SDPA)."""

Computer = Callable[[Sequence[Example], Callable[[int], None]], tuple[list[np.ndarray], np.ndarray]]
"""Examples of a shard, and who is told of rows done -> the values [n, D] of each signal, valid
bool [n]."""


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

    def computer(
        self,
        signals: Sequence[Signal],
        folder: Path,
        dataset: Dataset,
        device: str,
        decoders: int,
    ) -> AbstractContextManager[Computer]:
        """Load the model in ``folder`` once, with ``decoders`` processes that read ahead."""
        ...


@dataclass(frozen=True)
class Pass:
    """What the reference model's pass reads, with what, and how fast."""

    model: ModelSource
    source: DataSource
    dtype: str
    """Precision of the reference model, a torch name; in the key."""
    options: FeaturePass

    def __post_init__(self) -> None:
        check_dtype(self.dtype, "reference.dtype")

    def config(self) -> dict[str, Any]:
        """What of the pass changes the values."""
        return {
            "template": self.model.template,
            "max_length": self.model.max_length,
            "dtype": self.dtype,
        }

    def computer(
        self,
        signals: Sequence[Signal],
        folder: Path,
        dataset: Dataset,
        device: str,
        decoders: int,
    ) -> AbstractContextManager[Computer]:
        """Load the model once; what turns the examples of a shard into their values."""
        from coincide.features.reference import reference_computer

        return reference_computer(
            self.model, self.dtype, self.options, signals, folder, dataset, device, decoders
        )


def check_dtype(value: object, field: str) -> None:
    """Refuse what is no precision of a pass."""
    if value not in DTYPES:
        raise UserError(f"{field}={value!r}: the choices are {', '.join(DTYPES)}.")


def signal_step(signal: Signal, over: OnePass, *, data: Step, base: Step) -> Step:
    """The artifact of one signal; :func:`extract` builds several of them in one pass."""
    params = {k: list(v) if isinstance(v, tuple) else v for k, v in signal.params}
    config = {"signal": signal.name, "params": params, **over.config()}

    def alone(build: Build) -> dict[str, Any]:
        _fill([(signal, build)], over)
        return _facts(build)

    projected = f"_{params['projection']}" if "projection" in params else ""
    name = f"{signal.name}{projected}-{over.model.name}-{over.source.name}"
    return Step("features", name, VERSION, config, alone, needs=(data, base))


def extract(store: Store, steps: Mapping[Signal, Step], over: OnePass) -> list[Artifact]:
    """The artifacts of ``steps``; the missing ones come out of one pass over the data.

    Of several processes that ask for the same ones, the first leads and the others help it.
    """
    signals = {step.key: signal for signal, step in steps.items()}

    def build(builds: list[Build]) -> None:
        _fill([(signals[b.step.key], b) for b in builds], over)
        for each in builds:
            each.commit(_facts(each))

    missing = _missing(store, steps)
    if missing:
        folder = claims_beside(_partial(store, missing[0]))
        with Claims(folder) as claims:
            if not claims.take(LEADER):
                _assist(store, {signals[step.key]: step for step in missing}, over, claims)
            store.ensure_together(list(steps.values()), build)
        shutil.rmtree(folder, ignore_errors=True)
    return [store.artifact(step) for step in steps.values()]


def _missing(store: Store, steps: Mapping[Signal, Step]) -> list[Step]:
    """The steps without an artifact, in the order of their keys."""
    return sorted((s for s in steps.values() if store.find(s) is None), key=lambda s: s.key)


def _facts(build: Build) -> dict[str, Any]:
    invalid = np.flatnonzero(~read_valid(build.dir)).tolist()
    return {"invalid": len(invalid), "invalid_rows": invalid[:100]}


def _fill(missing: Sequence[tuple[Signal, Build]], over: OnePass) -> None:
    """Write the shards that the builds lack, each shard for all of them at once."""
    from coincide.progress import bar

    missing = sorted(missing, key=lambda pair: pair[1].step.key)
    builds = [build for _, build in missing]
    data = builds[0].need(0)
    layout = _layout(builds, len(over.source.open(data.path)), over.options.shard_rows)
    model = builds[0].need(1).path / "model"
    folders = tuple(build.dir for build in builds)
    work = Work(over, tuple(s for s, _ in missing), folders, data.path, model, **layout)
    left = work.left()
    if len(left) < len(work.shards):
        first = left[0] if left else len(work.shards)
        print(f"features: resumed at shard {first} of {len(work.shards)}")
    if left:
        with bar("features", total=sum(len(work.shards[i]) for i in left), unit="row") as shown:
            _run(work, Tally(work, shown))
    shutil.rmtree(work.claims, ignore_errors=True)


def _run(work: Work, tally: Tally) -> None:
    """Do the work here, or in one process for each device."""
    rank = rank_of()
    devices = devices_of(work.over.options, rank)
    together = len(devices) * rank.local_ranks
    decoders = decoders_of(work.over.options, devices[0], together)
    if len(devices) == 1:
        do_shards(work, devices[0], decoders, tally)
    else:
        run_workers(work, devices, decoders, tally)
    tally.show(look=True)


def _assist(store: Store, steps: Mapping[Signal, Step], over: OnePass, claims: Claims) -> None:
    """Help with these signals while another process leads their pass; returns when it is over.

    What a dead leader left is finished by the caller, as after any kill.
    """
    from coincide.progress import bar

    while not claims.void(LEADER) and _missing(store, steps):
        work = _begun(store, steps, over)
        if work is None:
            time.sleep(POLL)
            continue
        print("features: another process leads this pass; helping it shard by shard", flush=True)
        with bar("features (helping)", total=work.rows, unit="row") as shown:
            _run(work, Tally(work, shown))
        return


def _begun(store: Store, steps: Mapping[Signal, Step], over: OnePass) -> Work | None:
    """The pass over just these signals, once its leader has laid out the shards."""
    folders = tuple(_partial(store, step) for step in steps.values())
    layouts = [layout_of(folder) for folder in folders]
    if layouts[0] is None or any(layout != layouts[0] for layout in layouts):
        return None
    data, model = (store.artifact(need).path for need in next(iter(steps.values())).needs)
    return Work(over, tuple(steps), folders, data, model / "model", **layouts[0])


def _partial(store: Store, step: Step) -> Path:
    """Where the store builds ``step``."""
    return store.root / step.kind / f".partial-{step.key[:12]}"


def _layout(builds: Sequence[Build], rows: int, shard_rows: int) -> dict[str, int]:
    """Rows, and rows to a shard. A resumed build keeps the size that it was begun with."""
    begun = next((found for build in builds if (found := layout_of(build.dir))), None)
    layout = {"rows": rows, "shard_rows": begun["shard_rows"] if begun else shard_rows}
    for build in builds:
        write_json(build.dir / "layout.json", layout)
    return layout


def device_of(wanted: str) -> str:
    """``wanted``, or for ``auto`` the first GPU where there is one."""
    import torch

    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


def usable_rows(folders: Sequence[Path]) -> np.ndarray:
    """bool [N]: rows that are valid in every one of the signal artifacts at ``folders``."""
    return np.logical_and.reduce([read_valid(folder) for folder in folders])
