"""The scan artifact: which rows of a dataset a model cannot read, or can learn nothing from.

``rows.json`` maps rows to ``[kind, detail]`` in two groups: ``refused`` (rows that the model's
processor or template does not accept; treated like other faults by ``data.on_bad_row``) and
``unlearnt`` (rows without an answer token: nothing is learnt from them, so no method may choose
them). Both kinds are *barred*: never selected.

Pictures are not decoded; their sizes come from the files' headers. See ``coincide.models.probe``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from coincide.data.columns import answered, sources
from coincide.data.reasons import Reasons, rows_of
from coincide.data.report import DataReport, Policies, policies_of
from coincide.models.learnable import ProbeVerdict, nothing_to_learn
from coincide.models.template import encoding_of
from coincide.schema import Dataset, DataSource, ModelSource, UserError
from coincide.store import Build, Step, Store
from coincide.system.files import digest_of, write_json
from coincide.terminal.progress import bar

if TYPE_CHECKING:
    from coincide.models.probe import ImageSize, Prober

KIND, VERSION, FILE = "scan", 2, "rows.json"
CHUNK = 256
"""Rows per task of a scanning process."""
REMEMBERED = 65_536
"""Sizes of pictures that are kept."""
FEW = 8192
"""Up to so many rows are scanned in this process; starting others would take longer."""


@dataclass(frozen=True)
class Scan:
    """What the scan found: row -> (kind, detail)."""

    refused: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    unlearnt: Mapping[int, tuple[str, str]] = field(default_factory=dict)

    @property
    def barred(self) -> dict[int, str]:
        """Row -> kind of reason, for all rows that no method may choose."""
        return {row: kind for row, (kind, _) in sorted({**self.refused, **self.unlearnt}.items())}

    @property
    def digest(self) -> str:
        """Hash of the set of barred rows; empty if there are none."""
        rows = sorted({*self.refused, *self.unlearnt})
        return digest_of(rows) if rows else ""


def scan_step(
    source: DataSource, data: Step, *, model: ModelSource | None, max_length: int, note: str = ""
) -> Step:
    """The step that scans ``source`` for ``model``, examples cut at ``max_length`` tokens.

    Without a model: only what holds for every model. The build raises :class:`UserError`, naming
    the first ten rows of each kind, if rows are refused and the data's ``on_bad_row`` is ``error``,
    and if the model can read no row at all.
    """
    config: dict[str, Any] = {}
    if model is not None:
        processor = dict(model.processor().identity)
        config = {
            "template": encoding_of(model.template),
            "max_length": max_length,
            "processor": processor,
        }

    def build(build: Build) -> Mapping[str, Any]:
        dataset = source.open(build.need(0).path)
        prober = None
        if model is not None:
            prober = _prober(_processor(model, build.store), model, max_length)
        found = scan_rows(dataset, prober)
        by = model.name if model else ""
        _refuse(found, dataset, policies_of(source), by)
        write_json(build.dir / FILE, {"refused": found.refused, "unlearnt": found.unlearnt})
        if note:
            print(note, flush=True)
        told = summary(dataset, found.barred)
        if told:
            print(f"{dataset.name} for {by or 'any model'}: never chosen:\n{told}", flush=True)
        return {"refused": len(found.refused), "unlearnt": len(found.unlearnt)}

    name = f"{model.name}-{source.name}" if model else source.name
    return Step(KIND, name, VERSION, config, build, (data,))


def read_scan(store: Store, step: Step) -> Scan:
    """The scan in the artifact of ``step``, after comparing it with its hash."""
    found = json.loads((store.verify(step).path / FILE).read_text(encoding="utf-8"))
    return Scan(*({int(r): tuple(v) for r, v in found[k].items()} for k in ("refused", "unlearnt")))


def scan_rows(dataset: Dataset, prober: Prober | None) -> Scan:
    """Scan every row that the data's policies left in the pool."""
    refused: dict[int, tuple[str, str]] = {}
    unlearnt: dict[int, tuple[str, str]] = {}
    for row, verdict in _verdicts(dataset, prober):
        (refused if verdict.refused else unlearnt)[row] = (verdict.kind, verdict.detail)
    return Scan(refused, unlearnt)


def summary(dataset: Dataset, reasons: Mapping[int, str]) -> str:
    """A line for each reason: number of rows, the first ten, number by source."""
    report = DataReport(dataset.name)
    labels = sources(dataset.examples)
    in_order = reasons.items() if isinstance(reasons, Reasons) else sorted(reasons.items())
    for row, reason in in_order:
        report.add(reason, "on_bad_row", row, labels.names[labels.codes[row]], reason)
    return "\n".join(line.rpartition("; the first:")[0] for line in report.faults().splitlines())


def _processor(model: ModelSource, store: Store) -> Any:
    """Made of the published files of ``model``, or of its artifact where those are gone."""
    from coincide.models.load import load_processor

    files = model.processor()
    found = None if files.there else store.find(model.step())
    return load_processor(found.path / "model") if found else files.load(model.name)


def _prober(processor: Any, model: ModelSource, max_length: int) -> Prober:
    from coincide.models.probe import Prober, check_model

    try:
        check_model(processor, model.template)
    except (ValueError, UserError) as error:
        raise UserError(f"model {model.name} can read no row: {error}") from error
    return Prober(processor, model.template, max_length)


def _refuse(found: Scan, dataset: Dataset, policies: Policies, model: str) -> None:
    report = DataReport(f"{dataset.name} as {model} reads it", rows=len(dataset))
    for row, (kind, detail) in sorted(found.refused.items()):
        report.add(kind, "on_bad_row", row, dataset.examples[row].source, f"row {row}, {detail}")
    report.refuse(policies)


def _verdicts(dataset: Dataset, prober: Prober | None) -> Iterator[tuple[int, ProbeVerdict]]:
    """``(row, verdict)`` for the rows that are barred, in row order."""
    from coincide.features.engine.ahead import decoding
    from coincide.features.engine.devices import MOST_DECODERS
    from coincide.system.processes import available_cores

    kept = np.ones(len(dataset), dtype=bool)
    kept[rows_of(dataset.dropped)] = False
    if prober is None:  # a row with an answer teaches any model something
        kept &= ~answered(dataset.examples)
    rows = np.flatnonzero(kept)
    chunks = [rows[i : i + CHUNK] for i in range(0, len(rows), CHUNK)]
    workers = 0 if len(rows) <= FEW else min(MOST_DECODERS, available_cores())
    with (
        decoding(_Look(dataset, prober), workers) as ordered,
        bar("scan rows", total=len(rows), unit="row") as shown,
    ):
        for chunk, found in zip(chunks, ordered(chunks), strict=True):
            yield from found
            shown.update(len(chunk))


@dataclass
class _Look:
    """``look(rows)``: the verdicts on those of ``rows`` that are barred.

    Each picture's header is read once, unless ``REMEMBERED`` others came in between.
    """

    dataset: Dataset
    prober: Prober | None
    sizes: dict[str, ImageSize] = field(default_factory=dict)

    def __call__(self, rows: Sequence[int]) -> list[tuple[int, ProbeVerdict]]:
        found = ((int(row), self._one(int(row))) for row in rows)
        return [(row, verdict) for row, verdict in found if verdict is not None]

    def _one(self, row: int) -> ProbeVerdict | None:
        example = self.dataset.examples[row]
        if self.prober is None:
            return nothing_to_learn(example.turns)
        from coincide.models.probe import NOMINAL, one_size

        if one_size(self.prober.processor):
            return self.prober(example.turns, [NOMINAL] * len(example.images))
        blank = row in self.dataset.blank_images
        return self.prober(example.turns, [self._size(name, blank) for name in example.images])

    def _size(self, name: str, blank: bool) -> ImageSize:
        from coincide.data.images import BadImage, size_of
        from coincide.models.probe import NOMINAL

        try:
            if name not in self.sizes:
                if len(self.sizes) >= REMEMBERED:
                    self.sizes.clear()
                self.sizes[name] = size_of(self.dataset.image_root, name)
        except BadImage:
            if blank:  # a blank picture takes its place
                return NOMINAL
            raise
        return self.sizes[name]
