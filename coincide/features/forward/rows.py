"""The reference model over the examples of a shard: encode, forward, read off every signal."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coincide.config import FeaturePass
from coincide.features.engine.ahead import Ordered, decoding, groups_by_image
from coincide.features.engine.contract import Computer
from coincide.features.forward import capture
from coincide.features.forward.contract import ForwardSignal
from coincide.features.forward.vision import TowerOnce
from coincide.models.chat import Refused
from coincide.models.encode import Encoded, ImageCache, collate, encode
from coincide.models.load import load_model, load_processor
from coincide.models.template import TEMPLATES
from coincide.schema import Dataset, Example, ModelSource, UserError

CPU_TOKENS = 2048
"""Most tokens in a batch on a CPU: beyond that its caches overflow, and it gets slower."""
WINDOW = 256
"""Rows held ready on the CPU, so that a batch finds others of its length: 0.5 GB of TinyLLaVA's."""
Row = tuple[int, Encoded]
"""Place in the shard, and the encoded row."""


@contextmanager
def reference_computer(
    model: ModelSource,
    dtype: str,
    options: FeaturePass,
    signals: Sequence[ForwardSignal],
    folder: Path,
    dataset: Dataset,
    device: str,
    decoders: int,
    *,
    drop_refused: bool = False,
) -> Iterator[Computer]:
    """Load the model in ``folder`` once; what turns the examples of a shard into their values.

    ``drop_refused``: a row that the processor refuses has no values, and is no error.
    """
    processor = load_processor(folder)
    encoder = RowEncoder(dataset, processor, model.template, model.max_length, drop_refused)
    with decoding(encoder, decoders) as ordered:
        network = load_model(folder, dtype=getattr(torch, dtype), device=device)
        forward = Forward(network, signals, processor.tokenizer.pad_token_id, device, options)
        with torch.inference_mode(), capture.shortened(network, signals):
            yield lambda examples, told: _compute(examples, told, ordered, forward)


@dataclass(frozen=True)
class RowEncoder:
    """Rows of a dataset -> what the model reads, as numpy arrays; a call reads an image once."""

    dataset: Dataset
    processor: Any
    template: str
    max_length: int
    drop_refused: bool = False

    def __call__(self, rows: Sequence[int]) -> list[dict[str, Any] | None]:
        cache = ImageCache()
        shared: dict[int, tuple[torch.Tensor, np.ndarray]] = {}
        return [self._one(self.dataset.examples[row], cache, shared) for row in rows]

    def _one(
        self,
        example: Example,
        cache: ImageCache,
        shared: dict[int, tuple[torch.Tensor, np.ndarray]],
    ) -> dict[str, Any] | None:
        """None for a row that a policy drops, and for one without text after its image.

        ``shared``: by identity, so that the pixels of several rows travel once.
        """
        if example.row in self.dataset.dropped:
            return None
        template = TEMPLATES[self.template]
        try:
            found = encode(example, self.dataset, self.processor, template, self.max_length, cache)
        except Refused:
            if self.drop_refused:
                return None
            raise
        if not found.text_mask.any():
            return None

        def array(tensor: torch.Tensor) -> np.ndarray:
            return shared.setdefault(id(tensor), (tensor, tensor.numpy()))[1]

        whole = {name: value for name, value in vars(found).items() if value is not None}
        extra = {name: array(value) for name, value in whole.pop("extra").items()}
        return {**{name: array(value) for name, value in whole.items()}, "extra": extra}


def _encoded(arrays: dict[str, Any]) -> Encoded:
    tensors: dict[str, Any] = {k: torch.from_numpy(v) for k, v in arrays.items() if k != "extra"}
    extra = {k: torch.from_numpy(v) for k, v in arrays["extra"].items()}
    return Encoded(**{"pixel_values": None, **tensors}, extra=extra)


@dataclass
class Forward:
    """The model on its device. Where memory runs out, batches become smaller and stay so."""

    network: Any
    signals: Sequence[ForwardSignal]
    pad_id: int
    device: str
    options: FeaturePass
    tower: TowerOnce = field(init=False)

    def __post_init__(self) -> None:
        if self.device == "cpu":
            tokens = min(self.options.batch_tokens, CPU_TOKENS)
            self.options = replace(self.options, batch_tokens=tokens)
        capture.check_layers(self.signals, len(capture.decoder_layers(self.network)))
        self.tower = TowerOnce(self.network)

    @property
    def widths(self) -> list[int]:
        """Columns of each signal."""
        hidden = self.network.config.get_text_config().hidden_size
        return [signal.width(hidden) for signal in self.signals]

    def __call__(self, batch: Sequence[Row], examples: Sequence[Example]) -> list[np.ndarray]:
        """The values [B, D] of each signal for the rows of ``batch``, in halves if need be."""
        try:
            return self._values(batch, examples)
        except torch.OutOfMemoryError as error:
            if len(batch) == 1:
                place, row = batch[0]
                raise UserError(
                    f"row {examples[place].row} with {len(row.input_ids)} tokens alone does not "
                    f"fit into the memory of {self.device}: {error}. Set a lower "
                    "reference.max_length, a smaller reference.dtype, or use a larger GPU."
                ) from error
        self._smaller(batch)
        half = len(batch) // 2
        first, second = (self(part, examples) for part in (batch[:half], batch[half:]))
        return [np.concatenate(pair) for pair in zip(first, second, strict=True)]

    def _smaller(self, batch: Sequence[Row]) -> None:
        tokens = len(batch) * max(len(row.input_ids) for _, row in batch)
        self.options = replace(
            self.options, batch_size=len(batch) // 2, batch_tokens=max(1, tokens // 2)
        )
        print(
            f"features: {self.device} is out of memory with {len(batch)} rows of {tokens:,} tokens "
            f"in all; going on with batches of {len(batch) // 2} rows or {tokens // 2:,} tokens",
            flush=True,
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _values(self, batch: Sequence[Row], examples: Sequence[Example]) -> list[np.ndarray]:
        rows = [row for _, row in batch]
        shown = [examples[place].images if row.pixel_values is not None else ()
                 for place, row in batch]  # fmt: skip
        images = self.tower.features(shown, rows, self._inputs)
        tensors = self._on_device(rows)
        captured = capture.run(self.network, tensors, self.signals, images)
        values = [signal.read(captured).cpu().numpy() for signal in self.signals]
        self.tower.passed(shown)
        numbers = [examples[place].row for place, _ in batch]
        return [_checked(v, s, numbers) for v, s in zip(values, self.signals, strict=True)]

    def _inputs(self, rows: Sequence[Encoded]) -> dict[str, Any]:
        return capture.forward_inputs(self.network, self._on_device(rows))

    def _on_device(self, rows: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        return {k: v.to(self.device) for k, v in collate(rows, self.pad_id).items()}


def _compute(
    examples: Sequence[Example], told: Callable[[int], None], ordered: Ordered, forward: Forward
) -> tuple[list[np.ndarray], np.ndarray]:
    values = [np.zeros((len(examples), columns)) for columns in forward.widths]
    valid = np.zeros(len(examples), dtype=bool)
    forward.tower.begin(name for example in examples for name in example.images)
    for batch in _batches(_rows(examples, ordered, told), lambda: forward.options):
        places = [place for place, _ in batch]
        valid[places] = True
        for whole, part in zip(values, forward(batch, examples), strict=True):
            whole[places] = part
        told(len(batch))
    return values, valid


def _rows(
    examples: Sequence[Example], ordered: Ordered, told: Callable[[int], None]
) -> Iterator[Row]:
    """The usable rows, encoded, as they come: rows of one image together, the longest first."""
    groups = groups_by_image(examples)
    tasks = [[examples[place].row for place in group] for group in groups]
    for group, rows in zip(groups, ordered(tasks), strict=True):
        for place, arrays in zip(group, rows, strict=True):
            if arrays is None:
                told(1)
            else:
                yield place, _encoded(arrays)


def _batches(rows: Iterator[Row], options: Callable[[], FeaturePass]) -> Iterator[list[Row]]:
    """``rows`` in batches of like length, at most ``batch_size`` and ``batch_tokens`` with padding.

    The longest of those that are held go first; what goes is made up for before the next batch.
    """
    held: list[Row] = []
    for row in rows:
        insort(held, row, key=_longest_first)
        if len(held) >= max(WINDOW, options().batch_size):
            yield _taken(held, options())
    while held:
        yield _taken(held, options())


def _longest_first(row: Row) -> tuple[int, int]:
    return -len(row[1].input_ids), row[0]


def _taken(held: list[Row], options: FeaturePass) -> list[Row]:
    """The first of ``held`` that make up a batch, taken out of it; at least one."""
    fit = options.batch_tokens // len(held[0][1].input_ids)
    count = max(1, min(fit, options.batch_size))
    batch, held[:count] = held[:count], []
    return batch


def _checked(values: np.ndarray, signal: ForwardSignal, rows: Sequence[int]) -> np.ndarray:
    """``values`` [B, D] unless they would not survive storage; never zeroed silently."""
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
