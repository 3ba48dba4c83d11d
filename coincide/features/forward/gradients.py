"""Gradients of the rows of a batch by the LoRA parameters of a warmed-up target, each sketched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from coincide.config import FeaturePass
from coincide.features.engine.ahead import decoding
from coincide.features.engine.contract import Computer, WorkerSite
from coincide.features.forward import capture
from coincide.features.forward.adapted import AdaptedModel, RowFactors, RowsNotApart
from coincide.features.forward.encoder import RowEncoder
from coincide.features.forward.vision import TowerOnce
from coincide.features.forward.walk import EncodedRow, Group, compute_rows, halves, tokens_of
from coincide.models.decoder import last_states
from coincide.models.encode import IGNORE, Encoded, batches_of, collate
from coincide.models.head import own_logits
from coincide.models.load import load_model, load_processor
from coincide.models.recompute import checkpoint_layers
from coincide.models.tuned import MOMENTS, PREFIX
from coincide.ops import sketch
from coincide.ops.sketch import MatrixShape
from coincide.schema import Example, ModelSource, UserError

CPU_TOKENS, GPU_TOKENS = 1024, 8192
"""Most tokens of a batch: the states of all layers stay for the backward pass."""
SCALE = 256.0
"""Of the loss in float16, whose smallest numbers a gradient falls below; a power of two, so that
dividing by it is exact."""
BETAS, EPSILON = (0.9, 0.999), 1e-8
"""Of Adam, as the train stage runs it."""

GradientKind = Literal["sgd", "adam"]
GradientLoss = Literal["mean", "sum"]


@dataclass(frozen=True)
class GradientReading:
    """What is read of a row's gradient: its sketch of unit length, or its length."""

    at: int
    """Number of the adapter."""
    kind: GradientKind
    loss: GradientLoss
    projection: sketch.SketchKind | None
    """None: the length of the gradient itself."""
    dimension: int = 1
    seed: int = 0

    def columns(self, matrices: Sequence[MatrixShape]) -> int:
        """D."""
        if self.projection is None:
            return 1
        return sketch.columns_of(self.projection, self.dimension, matrices)


@contextmanager
def gradient_computer(
    model: ModelSource,
    base: Path,
    dtype: str,
    options: FeaturePass,
    readings: Sequence[GradientReading],
    site: WorkerSite,
    *,
    drop_refused: bool = False,
) -> Iterator[Computer]:
    """Load the ``base`` in ``dtype`` with the adapters in ``site.model``; yields what computes a
    shard. Rows whose gradient is zero or not finite are not valid, and named.
    """
    processor = load_processor(base)
    encoder = RowEncoder(site.dataset, processor, model.template, model.max_length, drop_refused)
    with decoding(encoder, site.decoders) as ordered:
        network = load_model(base, dtype=getattr(torch, dtype), device=site.device)
        folders = sorted(site.model.glob("at-*"))
        run = GradientRun(
            AdaptedModel(network, folders), folders, readings, processor.tokenizer.pad_token_id,
            options,
        )  # fmt: skip

        def compute(
            examples: Sequence[Example], progress: Callable[[int], None]
        ) -> tuple[list[np.ndarray], np.ndarray]:
            values, valid = compute_rows(examples, progress, ordered, run)
            lacking = valid & np.any([np.isnan(each).any(axis=1) for each in values], axis=0)
            if lacking.any():
                rows = [examples[i].row for i in np.flatnonzero(lacking).tolist()]
                print(
                    f"features: {len(rows):,} rows whose gradient is zero or not finite are not "
                    f"used: {', '.join(map(str, rows[:20]))}" + (", ..." if len(rows) > 20 else ""),
                    flush=True,
                )
            for each in values:
                each[lacking] = 0.0
            return values, valid & ~lacking

        yield compute


@dataclass
class GradientRun:
    """Forward and backward of batches; when memory runs out, they become smaller and stay so."""

    model: AdaptedModel
    folders: Sequence[Path]
    readings: Sequence[GradientReading]
    pad_id: int
    options: FeaturePass
    towers: dict[int, TowerOnce] = field(init=False)
    """By adapter: each has a projector of its own."""
    recomputes: bool = field(default=False, init=False)
    """Whether blocks are run again in backward, so that their states need not be kept."""
    _moments: dict[int, Mapping[str, torch.Tensor]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        on_cpu = self.model.network.device.type == "cpu"
        tokens = min(self.options.batch_tokens, CPU_TOKENS if on_cpu else GPU_TOKENS)
        self.options = replace(self.options, batch_tokens=tokens)
        at = sorted({reading.at for reading in self.readings})
        self.towers = {number: TowerOnce(self.model.network) for number in at}

    @property
    def widths(self) -> list[int]:
        """Columns D of each reading."""
        return [reading.columns(self.model.matrices) for reading in self.readings]

    def begin(self, images: Iterable[str]) -> None:
        """A new shard, whose rows show ``images``, with repetitions."""
        names = list(images)
        for tower in self.towers.values():
            tower.begin(names)

    def groups(self, rows: Sequence[EncodedRow]) -> list[Group]:
        """Each row alone: what rows begin with in common has gradients of all of them at once."""
        return [[row] for row in rows]

    def __call__(self, batch: Sequence[Group], examples: Sequence[Example]) -> list[np.ndarray]:
        """float64 [B, D] of each reading for the rows of ``batch``, NaN for a row whose gradient is
        zero or not finite.
        """
        parts = batches_of([group[0][1]["whole"] for group in batch])
        if len(parts) > 1:
            return self._apart(batch, parts, examples)
        try:
            return self._values([row for group in batch for row in group], examples)
        except RowsNotApart:
            self.options = replace(self.options, batch_size=1)
        except torch.OutOfMemoryError as error:
            self._smaller(batch, examples, error)
        if len(batch) == 1:
            return self(batch, examples)
        first, second = (self(part, examples) for part in halves(batch))
        return [np.concatenate(pair) for pair in zip(first, second, strict=True)]

    def recompute(self) -> None:
        """From now on run every block again in backward (non-reentrant checkpointing)."""
        checkpoint_layers(self.model.network)
        self.recomputes = True

    def _apart(
        self, batch: Sequence[Group], parts: Sequence[Sequence[int]], examples: Sequence[Example]
    ) -> list[np.ndarray]:
        found = [self([batch[i] for i in part], examples) for part in parts]
        order = np.argsort([i for part in parts for i in part])
        return [np.concatenate(values)[order] for values in zip(*found, strict=True)]

    def _smaller(
        self, batch: Sequence[Group], examples: Sequence[Example], error: Exception
    ) -> None:
        device, rows, tokens = self.model.network.device, len(batch), tokens_of(batch[0])
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if rows == 1 and self.recomputes:
            place, _ = batch[0][0]
            raise UserError(
                f"the gradient of row {examples[place].row}, of {tokens} tokens, alone does not "
                f"fit into the memory of {device}: {error}. Set a lower train.max_length, a "
                "smaller target.dtype, or use a larger GPU."
            ) from error
        if rows == 1:
            self.recompute()
            print(f"features: {device} is out of memory with one row; blocks run again", flush=True)
            return
        most = max(1, rows * tokens // 2)
        self.options = replace(self.options, batch_size=rows // 2, batch_tokens=most)
        print(
            f"features: {device} is out of memory with {rows} rows of {tokens:,} tokens; going on "
            f"with batches of {rows // 2} rows or {most:,} tokens",
            flush=True,
        )

    def _values(self, rows: Sequence[EncodedRow], examples: Sequence[Example]) -> list[np.ndarray]:
        encoded = [row["whole"] for _, row in rows]
        shown = [examples[place].images if row.sees else () for (place, _), row in
                 zip(rows, encoded, strict=True)]  # fmt: skip
        found: dict[GradientReading, np.ndarray] = {}
        for number, tower in self.towers.items():
            self.model.use(number)
            mine = [reading for reading in self.readings if reading.at == number]
            found |= self.read_at(mine, encoded, tower.features(shown, encoded, self._inputs))
            tower.passed(shown)
        return [found[reading] for reading in self.readings]

    def read_at(
        self, readings: Sequence[GradientReading], rows: Sequence[Encoded], images: Any
    ) -> dict[GradientReading, np.ndarray]:
        """The ``readings``, of the adapter in use, of ``rows``; ``images``: what the vision tower
        gave for them, if it ran.
        """
        network = self.model.network
        batch = self._on_device(rows)
        scale = SCALE if network.dtype == torch.float16 else 1.0
        counts = (batch["labels"][:, 1:] != IGNORE).sum(dim=1)
        if not counts.any():
            widths = {each: each.columns(self.model.matrices) for each in readings}
            return {each: np.full((len(rows), width), np.nan) for each, width in widths.items()}
        sums = RowSums(readings, self.model, counts, scale, self._moments_of)
        with torch.enable_grad(), self.model.receiving(len(rows), sums.receive):
            inputs = capture.with_image_features(capture.forward_inputs(network, batch), images)
            states, _ = last_states(network, inputs, use_cache=False)
            losses = answer_losses(states, batch["labels"], own_logits(network))
            self.model.backward(scale * losses.sum())
        return sums.results()

    def _moments_of(self, number: int) -> Mapping[str, torch.Tensor]:
        """Adam's moments of adapter ``number``, as [R, C] by the name of the matrix."""
        if number not in self._moments:
            from safetensors.torch import load_file

            kept = torch.promote_types(self.model.network.dtype, torch.float32)
            found = load_file(self.folders[number] / MOMENTS)
            self._moments[number] = {
                f"{each.name}.{moment}": _rank_first(
                    found[f"{PREFIX}{each.name}.weight.{moment}"], each
                ).to(self.model.network.device, kept)
                for each in self.model.matrices
                for moment in ("exp_avg", "exp_avg_sq")
            }
        return self._moments[number]

    def _inputs(self, rows: Sequence[Encoded]) -> dict[str, Any]:
        return capture.forward_inputs(self.model.network, self._on_device(rows))

    def _on_device(self, rows: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        device = self.model.network.device
        return {k: v.to(device) for k, v in collate(rows, self.pad_id).items()}


def answer_losses(
    states: torch.Tensor, labels: torch.Tensor, head: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Mean cross-entropy of each row's answer tokens, [B], 0 for a row without.

    ``states`` [B, T, H] after the final norm, ``labels`` int64 [B, T], not shifted. The head runs
    on the positions that predict an answer token alone.
    """
    targets = labels[:, 1:]
    answer = targets != IGNORE
    logits = head(states[:, :-1][answer].unsqueeze(0)).squeeze(0)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    each = torch.nn.functional.cross_entropy(logits, targets[answer], reduction="none")
    spread = each.new_zeros(answer.shape).masked_scatter(answer, each)
    return spread.sum(dim=1) / answer.sum(dim=1).clamp(min=1)


class RowSums:
    """The gradients of the rows of one backward pass as they come in, sketched matrix by matrix."""

    def __init__(
        self,
        readings: Sequence[GradientReading],
        model: AdaptedModel,
        counts: torch.Tensor,
        scale: float,
        moments_of: Callable[[int], Mapping[str, torch.Tensor]],
    ) -> None:
        """``counts`` int64 [B]: answer tokens of each row; ``scale``: of the loss."""
        self.readings, self.model, self.counts, self.scale = readings, model, counts, scale
        self.moments_of = moments_of
        self.shapes = {each.name: each for each in model.matrices}
        self.left = set(self.shapes)
        self.pending: dict[str, tuple[int, torch.Tensor]] = {}
        kept = torch.promote_types(model.network.dtype, torch.float32)
        like = torch.empty(0, device=counts.device, dtype=kept)
        self.sketches = {
            each: sketch.start(each.projection, each.dimension, each.seed, len(counts), like)
            for each in readings
            if each.projection
        }
        self.squares: dict[tuple[GradientKind, GradientLoss], torch.Tensor] = {
            (each.kind, each.loss): like.new_zeros(len(counts)) for each in readings
        }
        self.adding = {
            way: [made for each, made in self.sketches.items() if (each.kind, each.loss) == way]
            for way in self.squares
        }

    def receive(self, name: str, factors: RowFactors) -> None:
        """Take what a linear gives in backward; of one that ran several times, the sum."""
        for matrix, (short, long) in (
            (f"{name}.lora_A", factors.of_a), (f"{name}.lora_B", factors.of_b)
        ):  # fmt: skip
            values = short.transpose(1, 2) @ long
            calls, before = self.pending.pop(matrix, (0, None))
            values = values if before is None else before + values
            if calls + 1 < self.model.calls(name):
                self.pending[matrix] = (calls + 1, values)
            else:
                self._add(self.shapes[matrix], values)

    def _add(self, matrix: MatrixShape, values: torch.Tensor) -> None:
        """``values`` [B, R, C]: the whole of a matrix's gradient, of the mean loss times scale."""
        self.left.discard(matrix.name)
        values = values if self.scale == 1.0 else values / self.scale
        for way, sketches in self.adding.items():
            made = self._made(matrix, values, *way)
            self.squares[way] += torch.linalg.vector_norm(made, dim=(1, 2)).square()
            for each in sketches:
                each.add(matrix, made)

    def _made(
        self, matrix: MatrixShape, values: torch.Tensor, kind: GradientKind, loss: GradientLoss
    ) -> torch.Tensor:
        if loss == "sum":
            values = values * self.counts[:, None, None]
        if kind == "sgd":
            return values
        moments = self.moments_of(self.readings[0].at)
        first, second = (moments[f"{matrix.name}.{m}"] for m in ("exp_avg", "exp_avg_sq"))
        return adam_step(values, first, second)

    def results(self) -> dict[GradientReading, np.ndarray]:
        """float64 [B, D] of each reading, NaN for a row without a gradient."""
        for matrix, (_, values) in list(self.pending.items()):
            self._add(self.shapes[matrix], values)
        for name in sorted(self.left):  # linears that no loss depends on
            shape, like = self.shapes[name], next(iter(self.squares.values()))
            self._add(shape, like.new_zeros(len(self.counts), shape.rank, shape.width))
        found = {}
        for reading in self.readings:
            length = self.squares[reading.kind, reading.loss].sqrt().double()
            values = length.unsqueeze(1)
            if reading.projection:
                values = self.sketches[reading].result().double()
                values = values / torch.linalg.vector_norm(values, dim=1, keepdim=True)
            good = (self.counts > 0) & torch.isfinite(length) & (length > 0)
            good &= torch.isfinite(values).all(dim=1)
            values = values.masked_fill(~good.unsqueeze(1), float("nan"))
            found[reading] = values.cpu().numpy()
        return found


def adam_step(g: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """LESS's direction of a row: the step of Adam with the row's gradient ``g`` as the next batch,
    (b1 m + (1 - b1) g) / sqrt(b2 v + (1 - b2) g^2 + eps), eps inside the root, no bias correction.
    """
    m = BETAS[0] * first + (1 - BETAS[0]) * g
    v = BETAS[1] * second + (1 - BETAS[1]) * g.square()
    return m / (v + EPSILON).sqrt()


def _rank_first(moment: torch.Tensor, matrix: MatrixShape) -> torch.Tensor:
    """A moment of A [r, in] or B [out, r] as [R, C]."""
    return moment if matrix.name.endswith("lora_A") else moment.T
