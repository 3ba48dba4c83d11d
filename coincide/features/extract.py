"""Compute signals: one pass of a model over a dataset for all signals that any method asked for.

Rows are divided into shards by row index. Workers take units one by one, each a shard or, where
rows of one picture lie in several shards, rows that show the same pictures
(``coincide.features.engine.units``): on the GPUs of this machine, and in other processes and on
other nodes that ask for the same signals (``torchrun``, ``srun``, tasks of a job array), which help
instead of waiting. Inside a unit, batches hold rows of similar length; each value is written at its
row's place.

Batch size, token budget, shard size, number of processes and device are not part of the key.
Therefore the reference model computes in a precision (``reference.dtype``) in which the stored
float16 values do not depend on them; ``tests/features`` checks this.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coincide.config import FeaturePass
from coincide.features.engine.claims import Claims
from coincide.features.engine.contract import SignalPass
from coincide.features.engine.devices import decoders_of, devices_of, rank_of
from coincide.features.engine.shards import read_valid, remove_misfits, rows_of
from coincide.features.engine.units import (
    BY_PICTURE,
    Units,
    by_picture,
    lacking,
    read_order,
    shards_of,
    write_order,
)
from coincide.features.engine.work import (
    LAYOUT,
    LEADER,
    POLL,
    PassProgress,
    PassWork,
    do_units,
    layout_of,
)
from coincide.features.engine.workers import run_workers
from coincide.schema import DataSource, Example, Signal
from coincide.store import Artifact, Build, Step, Store, drop_damaged, note_done
from coincide.system.files import write_json

VERSION = 1
CLAIMS = "claims"
"""Folder of a pass's claims, beside the folder of its first signal (by key)."""


def signal_step(
    signal: Signal, signal_pass: SignalPass, *, data: Step, base: Step, after: tuple[Step, ...] = ()
) -> Step:
    """The step that computes one signal over the dataset ``data`` with the model ``base``.

    ``after``: scans (``coincide.selection.scan``) that must be done first. Built by itself, the
    step runs a pass of its own; :func:`extract` builds several steps in one pass.
    """
    config = {"signal": signal.name, "params": signal.params(), **signal_pass.config()}
    config |= {"code": signal.version} if signal.version != 1 else {}

    def alone(build: Build) -> dict[str, Any]:
        _fill([(signal, build)], signal_pass)
        return _facts(build)

    name = f"{signal.label}-{signal_pass.model.name}-{signal_pass.source.name}"
    return Step(
        "features", name, VERSION, config, alone, needs=(data, base), after=after, links=True
    )


@dataclass(frozen=True)
class Extraction:
    """A signal over a dataset: the step of its artifact, and the pass that computes it."""

    signal: Signal
    step: Step
    signal_pass: SignalPass


def extraction(
    signal: Signal,
    model: Any,
    source: DataSource,
    options: FeaturePass,
    after: tuple[Step, ...] = (),
    data: Step | None = None,
) -> Extraction:
    """The step and pass that compute ``signal`` with ``model`` over ``source``, whose step is
    ``data``.

    ``options`` say how fast, ``after`` are scans that must be done first.
    """
    signal_pass = type(signal).make_pass(model, source, options)
    over = data or source.step()
    step = signal_step(signal, signal_pass, data=over, base=model.step(), after=after)
    return Extraction(signal, step, signal_pass)


def extract_all(store: Store, wanted: Sequence[Extraction]) -> None:
    """Build the missing artifacts of ``wanted``, in one pass for each pair of model and dataset,
    and for each kind of pass.
    """
    together: dict[tuple[str, ...], list[Extraction]] = {}
    for each in wanted:
        if store.find(each.step) is None:
            of = type(each.signal_pass).__name__  # adapters are run forward, and backward too
            together.setdefault((of, *(n.key for n in each.step.needs)), []).append(each)
    for group in together.values():
        extract(store, {each.signal: each.step for each in group}, group[0].signal_pass)


def extract(store: Store, steps: Mapping[Signal, Step], signal_pass: SignalPass) -> list[Artifact]:
    """The artifacts of ``steps``; missing ones are computed in one pass over the data.

    Of several processes that ask for the same signals, the first one leads the pass and the others
    help it. Raises UserError where the input is wrong or the disk is full.
    """
    signals = {step.key: signal for signal, step in steps.items()}

    def build(builds: list[Build]) -> None:
        _fill([(signals[b.step.key], b) for b in builds], signal_pass)
        for each in builds:
            each.commit(_facts(each))

    missing = _missing(store, steps)
    if missing:
        folder = store.beside(missing[0], CLAIMS)
        try:
            with Claims(folder) as claims:
                while not claims.take(LEADER) and _missing(store, steps):
                    _assist(
                        store, {signals[step.key]: step for step in missing}, signal_pass, claims
                    )
                store.ensure_together(list(steps.values()), build)
        except OSError as error:
            raise store.as_disk_error(error, missing) from error
        shutil.rmtree(folder, ignore_errors=True)
    return [store.artifact(step) for step in steps.values()]


def _missing(store: Store, steps: Mapping[Signal, Step]) -> list[Step]:
    """The steps without an artifact, in the order of their keys."""
    return sorted((s for s in steps.values() if store.find(s) is None), key=lambda s: s.key)


def _facts(build: Build) -> dict[str, Any]:
    invalid = np.flatnonzero(~read_valid(build.dir)).tolist()
    return {"invalid": len(invalid), "invalid_rows": invalid[:100]}


def _fill(missing: Sequence[tuple[Signal, Build]], signal_pass: SignalPass) -> None:
    """Compute the shards that the builds lack; a unit is computed for all of them at once."""
    from coincide.terminal.progress import bar

    missing = sorted(missing, key=lambda pair: pair[1].step.key)
    signals, builds = zip(*missing, strict=True)
    data, model = builds[0].need(0).path, builds[0].need(1).path / "model"
    examples = signal_pass.source.open(data).examples
    layout = _layout(builds, len(examples), signal_pass.options.shard_rows)
    shards, dirs = shards_of(**layout), [build.dir for build in builds]
    left = lacking(dirs, len(shards))
    units = _units(builds, shards, left, examples, signal_pass.options)
    for (signal, build), columns in zip(missing, signal_pass.columns(signals, model), strict=False):
        size = layout["rows"] * (columns * np.dtype(signal.dtype).itemsize + 1)
        build.expect(size if units.order is None else 2 * size)
    claims = builds[0].store.beside(builds[0].step, CLAIMS)
    folders = tuple(_folder(build.store, build.step, build.dir, units) for build in builds)
    work = PassWork(signal_pass, signals, folders, claims, data, model, units)
    _tell_helpers(work, builds, layout)
    todo = work.missing() if left else []
    done = len(examples) - sum(len(units.rows[i]) for i in todo)
    if done:
        print(f"features: resumed with {done:,} of {len(examples):,} rows done")
    if todo:
        with bar("features", total=len(examples) - done, unit="row") as shown:
            _run(work, PassProgress(work, shown))
    if units.order is not None:
        for build, folder in zip(builds, folders, strict=True):
            units.to_shards(folder, build.dir)
    for build in builds:
        _remove_units(build)
    shutil.rmtree(work.claims, ignore_errors=True)


def _units(
    builds: Sequence[Build],
    shards: tuple[range, ...],
    left: Sequence[int],
    examples: Sequence[Example],
    options: FeaturePass,
) -> Units:
    """The units that the shards ``left`` are computed in; those of a killed attempt, if they do."""
    rows = np.concatenate([np.empty(0, np.int64), *(np.asarray(shards[i]) for i in left)])
    for folder in _unit_folders(builds[0]) if left else ():
        order = read_order(folder)
        if order is None or not np.isin(rows, order[:, 0]).all():
            continue
        begun = Units(shards, order)
        if all(_folder(b.store, b.step, b.dir, begun) in _unit_folders(b) for b in builds):
            return begun
    for build in builds:
        _remove_units(build)
    if not options.share_prefixes:
        return Units(shards)
    return Units(shards, by_picture(examples, [shards[i] for i in left], options.shard_rows))


def _folder(store: Store, step: Step, folder: Path, units: Units) -> Path:
    """Where the values of ``units`` lie: in the attempt's ``folder``, or beside it."""
    return folder if units.order is None else store.beside(step, units.name)


def _unit_folders(build: Build) -> list[Path]:
    pattern = build.store.beside(build.step, f"{BY_PICTURE}-*")
    return sorted(pattern.parent.glob(pattern.name))


def _remove_units(build: Build) -> None:
    for folder in _unit_folders(build):
        shutil.rmtree(folder, ignore_errors=True)


def _tell_helpers(work: PassWork, builds: Sequence[Build], layout: Mapping[str, int]) -> None:
    """Make the folders of the units and write what other processes must know; the layout last."""
    work.claims.mkdir(parents=True, exist_ok=True)
    write_order(work.claims, work.units.order)
    for build, folder in zip(builds, work.folders, strict=True):
        if work.units.order is not None:
            folder.mkdir(exist_ok=True)
            drop_damaged(folder, build.step.folder)
            write_order(folder, work.units.order)
        write_json(build.dir / LAYOUT, layout)
        note_done(build.dir / LAYOUT)


def _run(work: PassWork, tally: PassProgress) -> None:
    """Compute the units in this process, or in one process for each device."""
    rank = rank_of()
    devices = devices_of(work.signal_pass.options, rank)
    together = len(devices) * rank.local_ranks
    decoders = decoders_of(work.signal_pass.options, devices[0], together)
    if len(devices) == 1:
        do_units(work, devices[0], decoders, tally)
    else:
        run_workers(work, devices, decoders, tally)
    tally.show(look=True)


def _assist(
    store: Store, steps: Mapping[Signal, Step], signal_pass: SignalPass, claims: Claims
) -> None:
    """Help another process that leads the pass over these signals; returns when the pass ends.

    If the leader dies, this returns as well, and the caller builds what is missing itself.
    """
    from coincide.terminal.progress import bar

    told = False
    while not claims.void(LEADER) and _missing(store, steps):
        work = _begun(store, steps, signal_pass)
        if work is None or not work.missing():
            if not told:
                print(f"features: waiting for {claims.whose(LEADER)}, which leads", flush=True)
            told = True
            time.sleep(POLL)
            continue
        print("features: another process leads this pass; helping it unit by unit", flush=True)
        rows = sum(map(len, work.units.rows))
        with bar("features (helping)", total=rows, unit="row") as shown:
            _run(work, PassProgress(work, shown))
        return


def _begun(store: Store, steps: Mapping[Signal, Step], signal_pass: SignalPass) -> PassWork | None:
    """The pass over these signals, once its leader has written the shards' layout."""
    layouts = [layout_of(store.partial(step)) for step in steps.values()]
    claims = store.beside(next(iter(steps.values())), CLAIMS)
    order = read_order(claims)
    if layouts[0] is None or any(layout != layouts[0] for layout in layouts) or order is None:
        return None
    units = Units(shards_of(**layouts[0]), order if len(order) else None)
    folders = tuple(_folder(store, step, store.partial(step), units) for step in steps.values())
    first = next(iter(steps.values()))
    data, model = (store.verify(need).path for need in first.needs)
    return PassWork(signal_pass, tuple(steps), folders, claims, data, model / "model", units)


def _layout(builds: Sequence[Build], rows: int, shard_rows: int) -> dict[str, int]:
    """``rows`` and ``shard_rows``; a resumed build keeps the shard size it was started with.

    If its file was lost, the first shard tells. Shards of another size are removed.
    """
    begun = [found["shard_rows"] for build in builds if (found := layout_of(build.dir))]
    first = [n for build in builds if (n := rows_of(build.dir / "values-00000.npy"))]
    layout = {"rows": rows, "shard_rows": [*begun, *first, shard_rows][0]}
    for build in builds:
        if removed := remove_misfits(build.dir, **layout):
            print(
                f"{build.step.folder}: {len(removed):,} files, the first {removed[0]}, are not of "
                f"shards of {layout['shard_rows']:,} rows; built again",
                flush=True,
            )
    return layout
