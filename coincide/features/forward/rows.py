"""The reference model over the examples of a shard: encode, forward, read every signal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from coincide.config import FeaturePass
from coincide.features.engine.ahead import decoding
from coincide.features.engine.contract import Computer, WorkerSite
from coincide.features.forward import capture, causal, packed
from coincide.features.forward.contract import BLIND, Captured, ForwardSignal, RowVariant
from coincide.features.forward.encoder import RowEncoder, variants_of
from coincide.features.forward.prefix import can_share, prefix_of, rest_of, shared_length
from coincide.features.forward.vision import TowerOnce
from coincide.features.forward.walk import (
    CPU_TOKENS,
    EncodedRow,
    Group,
    compute_rows,
    halves,
    length_of,
    tokens_of,
)
from coincide.models.chat import check_feature_token
from coincide.models.encode import Encoded, batches_of, collate
from coincide.models.load import load_model, load_processor
from coincide.schema import Example, ModelSource, UserError


@contextmanager
def reference_computer(
    model: ModelSource,
    dtype: str,
    options: FeaturePass,
    signals: Sequence[ForwardSignal],
    site: WorkerSite,
    *,
    drop_refused: bool = False,
) -> Iterator[Computer]:
    """Load the model in ``dtype`` as ``site`` says; yields the :data:`Computer` of a shard.

    ``signals`` are computed together. ``drop_refused``: a row that the model's processor does not
    accept is marked as not valid instead of raising an error.
    """
    wanted, processor = variants_of(signals), load_processor(site.model)
    template, longest = model.template, model.max_length
    encoder = RowEncoder(site.dataset, processor, template, longest, drop_refused, wanted)
    with decoding(encoder, site.decoders) as ordered:
        network = load_model(site.model, dtype=getattr(torch, dtype), device=site.device)
        if template == "chat":
            check_feature_token(processor, network.config)
        forward = Forward(network, signals, processor.tokenizer.pad_token_id, site.device, options)
        with torch.inference_mode():
            yield lambda examples, progress: compute_rows(examples, progress, ordered, forward)


@dataclass
class Forward:
    """The model on its device. When memory runs out, batches become smaller and stay so."""

    network: Any
    signals: Sequence[ForwardSignal]
    pad_id: int
    device: str
    options: FeaturePass
    tower: TowerOnce = field(init=False)
    packs: bool = field(init=False)
    """Whether rows that begin alike run as one sequence."""
    checked: bool = field(default=False, init=False)
    """Whether such a row was compared with the same alone."""
    causal: bool = field(default=False, init=False)
    """Whether a row has shown that the model's tokens do not see those after them."""
    by_variant: Mapping[RowVariant, Sequence[ForwardSignal]] = field(init=False)

    def __post_init__(self) -> None:
        if self.device == "cpu":
            tokens = min(self.options.batch_tokens, CPU_TOKENS)
            self.options = replace(self.options, batch_tokens=tokens)
        capture.check_layers(self.signals, len(capture.decoder_layers(self.network)))
        self.tower = TowerOnce(self.network)
        self.by_variant = {
            variant: [signal for signal in self.signals if signal.variant == variant]
            for variant in variants_of(self.signals)
        }
        self.packs = (
            self.options.share_prefixes
            and "whole" in self.by_variant
            and packed.can_pack(self.network)
        )

    @property
    def widths(self) -> list[int]:
        """Columns D of each signal."""
        hidden = self.network.config.get_text_config().hidden_size
        return [signal.width(hidden) for signal in self.signals]

    def begin(self, images: Iterable[str]) -> None:
        """A new shard, whose rows show ``images``, with repetitions."""
        seeing = sum(variant not in BLIND for variant in self.by_variant)
        self.tower.begin(name for name in images for _ in range(seeing))

    def groups(self, rows: Sequence[EncodedRow]) -> list[Group]:
        """``rows`` by what can run as one sequence."""
        if not self.packs or len(rows) == 1:
            return [[row] for row in rows]
        most = self.options.batch_size, self.options.batch_tokens
        return [
            [rows[i] for i in group]
            for group in packed.group_by_prefix([row["whole"] for _, row in rows], *most)
        ]

    def __call__(self, batch: Sequence[Group], examples: Sequence[Example]) -> list[np.ndarray]:
        """Values [B, D] of each signal for the rows of ``batch``, computed in halves if memory runs
        out, and apart where pictures cannot be one batch.
        """
        self._check_causal(_seeing(batch[0]))
        parts = batches_of([_seeing(group) for group in batch])
        if len(parts) > 1:
            return self._apart(batch, parts, examples)
        try:
            return self._values(batch, examples)
        except torch.OutOfMemoryError as error:
            if sum(map(len, batch)) == 1:
                place, row = batch[0][0]
                raise UserError(
                    f"row {examples[place].row} with {length_of(row)} tokens alone does not "
                    f"fit into the memory of {self.device}: {error}. Set a lower "
                    "reference.max_length, a smaller reference.dtype, or use a larger GPU."
                ) from error
        self._smaller(batch)
        first, second = (self(part, examples) for part in halves(batch))
        return [np.concatenate(pair) for pair in zip(first, second, strict=True)]

    def _check_causal(self, row: Encoded) -> None:
        """Once: raise UserError if the model's tokens see those after them."""
        changed = None if self.causal else causal.changed_end(row)
        if changed is not None:
            causal.check_causal(self.network, self._inputs([row]), self._inputs([changed]))
            self.causal = True

    def _apart(
        self, batch: Sequence[Group], parts: Sequence[Sequence[int]], examples: Sequence[Example]
    ) -> list[np.ndarray]:
        """The values of ``batch``, its groups ``parts`` run one after another."""
        found = [self([batch[i] for i in part], examples) for part in parts]
        order = np.argsort([place for part in parts for i in part for place, _ in batch[i]])
        rank = np.argsort(np.argsort([place for group in batch for place, _ in group]))
        joined = (np.concatenate(values) for values in zip(*found, strict=True))
        return [values[order][rank] for values in joined]

    def _smaller(self, batch: Sequence[Group]) -> None:
        rows, tokens = sum(map(len, batch)), len(batch) * max(map(tokens_of, batch))
        self.options = replace(self.options, batch_size=rows // 2, batch_tokens=max(1, tokens // 2))
        print(
            f"features: {self.device} is out of memory with {rows} rows of {tokens:,} tokens "
            f"in all; going on with batches of {rows // 2} rows or {tokens // 2:,} tokens",
            flush=True,
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _values(self, groups: Sequence[Group], examples: Sequence[Example]) -> list[np.ndarray]:
        batch = [row for group in groups for row in group]
        values = {s: np.full((len(batch), w), np.nan) for s, w in zip(self.signals, self.widths,
                                                                      strict=True)}  # fmt: skip
        whole: Captured | None = None
        for variant, signals in self.by_variant.items():
            for own, captured in self._runs(variant, groups, examples, whole):
                for signal in signals:
                    values[signal][own] = _read(signal, captured, values[signal][own].shape)
                whole = captured if variant == "whole" else whole
            others = [i for i, (_, row) in enumerate(batch) if variant not in row]
            if others and whole is not None:
                for signal in signals:
                    shape = values[signal].shape
                    values[signal][others] = _read(signal, whole, shape)[others]
        for variant in self.by_variant:
            self.tower.passed(_shown(variant, batch, examples))
        numbers = [examples[place].row for place, _ in batch]
        return [_checked(values[signal], signal, numbers) for signal in self.signals]

    def _runs(
        self,
        variant: RowVariant,
        groups: Sequence[Group],
        examples: Sequence[Example],
        whole: Captured | None,
    ) -> Iterator[tuple[list[int], Captured]]:
        """Run the rows that the variant has: their places in the batch, and what was captured.

        What they share with the ``whole`` rows, run before and kept, is not run again.
        """
        batch = [row for group in groups for row in group]
        if variant == "whole" and self.packs and len(groups) < len(batch):
            captured = self._packed(groups, examples)
            if captured is not None:
                yield list(range(len(batch))), captured
                return
        for length, own in self._lengths(variant, batch, whole).items():
            part = [batch[i] for i in own]
            rows = [row[variant] for _, row in part]
            if length and whole is not None:
                prefix = prefix_of(whole.cache, whole.cache_rows(own), length)
                yield own, self._run(variant, [rest_of(row, length) for row in rows], None, prefix)
                continue
            images = self.tower.features(_shown(variant, part, examples), rows, self._inputs)
            yield own, self._run(variant, rows, images)

    def _lengths(
        self, variant: RowVariant, batch: Sequence[EncodedRow], whole: Captured | None
    ) -> dict[int, list[int]]:
        """Places of the rows that the variant has, by how many tokens need not run."""
        shares = (
            whole is not None
            and all(signal.answers_only for signal in self.by_variant[variant])
            and can_share(self.network, whole.cache)
        )
        found: dict[int, list[int]] = defaultdict(list)
        for i, (_, row) in enumerate(batch):
            if variant in row:
                length = shared_length(row["whole"], row[variant]) if shares else 0
                if length and whole is not None and whole.packed is not None:
                    length = min(length, whole.packed.shared[i])
                found[length].append(i)
        return found

    def _packed(self, groups: Sequence[Group], examples: Sequence[Example]) -> Captured | None:
        """One run of the whole rows as a sequence for each group; None if the model's states are
        others there than in the row alone, which is looked at once.
        """
        encoded = [[row["whole"] for _, row in group] for group in groups]
        firsts = [group[0] for group in groups]
        shown = _shown("whole", firsts, examples)
        images = self.tower.features(shown, [rows[0] for rows in encoded], self._inputs)
        together = packed.pack(encoded, self.pad_id, self.device)
        rows = [row for group in encoded for row in group]
        captured = self._run("whole", rows, images, together=together)
        if not self.checked:
            self._check(groups, together, captured, examples)
        return captured if self.packs else None

    def _check(
        self,
        groups: Sequence[Group],
        together: packed.Packed,
        captured: Captured,
        examples: Sequence[Example],
    ) -> None:
        """Compare a row of a sequence of several with the same alone; sets ``packs``."""
        batch = [row for group in groups for row in group]
        place = max(i for i, (_, row) in enumerate(batch)
                    if together.shared[i] < len(row["whole"].input_ids))  # fmt: skip
        row = [batch[place][1]["whole"]]
        images = self.tower.features(_shown("whole", [batch[place]], examples), row, self._inputs)
        inputs = capture.with_image_features(self._inputs(row), images)
        with capture.without_unread_layers(self.network, self.by_variant["whole"]):
            apart = packed.largest_difference(self.network, inputs, captured.last[place])
        self.checked, self.packs = True, apart <= packed.allowed(self.network.dtype)
        if not self.packs:
            print(
                "features: rows that begin alike run one by one: in one sequence the states of "
                f"{type(self.network).__name__} are off by {apart:.2g} of their norm",
                flush=True,
            )

    def _run(
        self,
        variant: RowVariant,
        rows: Sequence[Encoded],
        images: Any,
        behind: Any = None,
        together: packed.Packed | None = None,
    ) -> Captured:
        """One run of the model over ``rows``, no deeper than the variant's signals look."""
        signals = self.by_variant[variant]
        keep = variant == "whole" and "unasked" in self.by_variant
        with capture.without_unread_layers(self.network, signals):
            batch = self._on_device(rows)
            return capture.run(self.network, batch, signals, images, behind, keep, together)

    def _inputs(self, rows: Sequence[Encoded]) -> dict[str, Any]:
        return capture.forward_inputs(self.network, self._on_device(rows))

    def _on_device(self, rows: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        return {k: v.to(self.device) for k, v in collate(rows, self.pad_id).items()}


def _shown(
    variant: RowVariant, batch: Sequence[EncodedRow], examples: Sequence[Example]
) -> list[tuple[str, ...]]:
    """The images of each row that the variant shows."""
    return [
        examples[place].images if variant in row and row[variant].sees else ()
        for place, row in batch
    ]


def _seeing(group: Group) -> Encoded:
    """A variant of the first row of ``group`` that shows its images, if one does."""
    variants = list(group[0][1].values())
    return next((row for row in variants if row.sees), variants[0])


def _read(signal: ForwardSignal, captured: Captured, shape: tuple[int, ...]) -> np.ndarray:
    """What ``signal`` reads of a batch; UserError if that is not [B, D] as its ``width`` says."""
    found = signal.read(captured).cpu().numpy()
    if found.shape != shape:
        raise UserError(
            f"signal {signal.name}: read() gave values of shape {list(found.shape)} for "
            f"{shape[0]} rows, and width() says {shape[1]} columns: expected {list(shape)}."
        )
    return found


def _checked(values: np.ndarray, signal: ForwardSignal, rows: Sequence[int]) -> np.ndarray:
    """``values`` [B, D]; UserError naming the rows whose values the stored dtype cannot hold."""
    with np.errstate(over="ignore"):
        stored = values.astype(signal.dtype)
    bad = np.isinf(stored) if signal.nan_allowed else ~np.isfinite(stored)
    if bad.any():
        named = [rows[i] for i in np.flatnonzero(bad.any(axis=1)).tolist()][:10]
        raise UserError(
            f"{signal.name}: NaN or infinite values in rows {named}. The reference model overflows "
            "on them in this precision: set reference.dtype=float32, or drop those rows."
        )
    return values
