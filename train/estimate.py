"""Estimates for a recipe: GPU memory, checkpoint size and GPU hours, from the number of parameters.

Each formula is stated. Measured figures are in the manifest of every adapter (``peak_gpu_bytes``,
``seconds``).
"""

from __future__ import annotations

from dataclasses import dataclass

from coincide.checks.flops import ASSUMED_MFU, gpu_hours, peak_flops
from train.recipe import Recipe

GIB = 2**30
RESERVE = 1.5 * GIB
"""Bytes for CUDA context, libraries and communication buffers."""
FRAGMENTATION = 1.1
NF4_BYTES = 0.516
"""Bytes per parameter in 4 bits with doubly quantized scales (Dettmers et al. 2023, section 3)."""
LAYER_VALUES = 24
"""Values per token and hidden unit that a layer keeps for the backward pass: 17 for a transformer
layer without its attention matrix (Korthikanti et al. 2022, equation 2), 7 for inputs of
adapters."""
CHECKPOINTS_AT_ONCE = 3
"""The two that are kept and the one that is being written."""


@dataclass(frozen=True)
class DecoderShape:
    """Sizes of a decoder with Llama's architecture."""

    layers: int
    hidden: int
    intermediate: int
    vocabulary: int = 32_000

    @property
    def linears(self) -> int:
        """Number of parameters in the linear layers that LoRA adapts."""
        return self.layers * (4 * self.hidden**2 + 3 * self.hidden * self.intermediate)

    def lora(self, rank: int) -> int:
        """Number of trained parameters of LoRA on those layers: ``rank`` (in + out) for each."""
        attention, mlp = 4 * 2 * self.hidden, 3 * (self.hidden + self.intermediate)
        return self.layers * rank * (attention + mlp)


def shape_of(parameters: int) -> DecoderShape:
    """A typical shape for a model with ``parameters`` parameters.

    Llama's proportions with 128 hidden units per layer, so parameters = 12 * 128^2 layers^3.
    """
    layers = max(1, round((parameters / (12 * 128**2)) ** (1 / 3)))
    hidden = max(1, round((parameters / (12 * layers)) ** 0.5))
    return DecoderShape(layers, hidden, round(2.69 * hidden))


@dataclass(frozen=True)
class MemoryEstimate:
    """Estimated bytes on one GPU."""

    weights: float
    """Frozen weights."""
    trained: float
    """Trained weights, their gradients, fp32 copies and Adam's two moments."""
    activations: float
    """For the backward pass of one micro-batch at full length, logits included."""

    @property
    def total(self) -> float:
        return FRAGMENTATION * (self.weights + self.trained + self.activations) + RESERVE

    def __str__(self) -> str:
        parts = (self.weights, self.trained, self.activations)
        weights, trained, activations = (f"{part / GIB:.1f}" for part in parts)
        return (
            f"{self.total / GIB:.0f} GiB estimated (weights {weights}, trained {trained}, "
            f"activations {activations})"
        )


def memory_estimate(
    recipe: Recipe, *, parameters: int, world_size: int = 1, shape: DecoderShape | None = None
) -> MemoryEstimate:
    """GPU memory of one rank; ``parameters``: of the whole base model.

    ``shape``: of its decoder; None: :func:`shape_of`. With b bytes per value, N parameters, n
    trained parameters and W ranks:

    - weights: b N, the linears ``NF4_BYTES`` each with nf4; with ZeRO-3 b N / W and up to 10^9
      gathered parameters;
    - trained: n (b + (b + 12) / W) with ZeRO-2, all / W with ZeRO-3, 16 n without;
    - activations: tokens x hidden x b x (layers + 24) with checkpointing, else x 24 layers;
      logits and their gradient, and fp32 logits of a quarter of the positions (answers).

    The total adds 10 % for fragmentation and 1.5 GiB for CUDA.
    """
    decoder = shape or shape_of(parameters)
    width = 4 if recipe.precision == "fp32" else 2
    tokens = recipe.micro_batch * recipe.max_length
    kept = LAYER_VALUES * decoder.layers
    if recipe.gradient_checkpointing:
        kept = decoder.layers + LAYER_VALUES
    activations = tokens * decoder.hidden * width * kept
    logits = tokens * decoder.vocabulary * (2 * width + 2)
    return MemoryEstimate(
        _weights(recipe, parameters, decoder, width, world_size),
        _trained(recipe, decoder, width, world_size),
        activations + logits,
    )


def checkpoint_bytes(recipe: Recipe, *, parameters: int, shape: DecoderShape | None = None) -> int:
    """Bytes of one checkpoint over all ranks: trained weights, fp32 copies, two moments."""
    decoder = shape or shape_of(parameters)
    return 16 * trained_parameters(recipe, decoder)


def trained_parameters(recipe: Recipe, shape: DecoderShape) -> int:
    """Number of parameters of LoRA and of a two-layer projector from 1,024 visual units."""
    return shape.lora(recipe.rank) + 1024 * shape.hidden + shape.hidden**2


def _weights(
    recipe: Recipe, parameters: int, shape: DecoderShape, width: int, world_size: int
) -> float:
    if recipe.quantization == "nf4":
        linears = min(parameters, shape.linears)
        return NF4_BYTES * linears + width * (parameters - linears)
    if recipe.zero_stage == 3 and world_size > 1:
        return width * (parameters / world_size + min(parameters, 10**9))
    return width * parameters


def _trained(recipe: Recipe, shape: DecoderShape, width: int, world_size: int) -> float:
    trained = trained_parameters(recipe, shape)
    if recipe.zero_stage == 0:
        return 16 * trained
    sharded = (width + 12) / world_size
    return trained * (width / (world_size if recipe.zero_stage == 3 else 1) + sharded)


@dataclass(frozen=True)
class GpuHours:
    """An estimate and the numbers that it is computed from."""

    hours: float
    basis: str


def step_flops(recipe: Recipe, tokens: float, parameters: int) -> float:
    """Floating-point operations of finetuning on ``tokens`` tokens.

    2 N per token forward and 2 N backward (the base is frozen, so its weights need no gradient);
    with gradient checkpointing 2 N for the second forward pass, and 6 n for the n trained
    parameters.
    """
    passes = 6 if recipe.gradient_checkpointing else 4
    return tokens * (passes * parameters + 6 * shape_of(parameters).lora(recipe.rank))


def estimate_gpu_hours(
    recipe: Recipe, rows: int, parameters: int, tokens_per_row: float, device: str = ""
) -> GpuHours:
    """GPU hours, summed over all GPUs, of finetuning on ``rows`` examples.

    ``tokens_per_row`` includes image tokens; ``device`` is a GPU's name, e.g. ``NVIDIA H100 80GB``.
    With the assumed share of the peak, LLaVA-1.5-7B on LLaVA-665K (750 tokens per row) comes to 66
    A100 hours; 68 are published (MAGIC, table 5).
    """
    steps = recipe.epochs * -(-rows // recipe.global_batch)
    part = 1.0 if recipe.max_steps is None else min(1.0, recipe.max_steps / steps)
    tokens = part * recipe.epochs * rows * tokens_per_row
    name, peak = peak_flops(device)
    hours = gpu_hours(step_flops(recipe, tokens, parameters), device)
    passes = "6N" if recipe.gradient_checkpointing else "4N"
    basis = (
        f"{tokens / 1e6:,.0f}M tokens x ({passes} + 6 LoRA) FLOP, N = {parameters / 1e9:.2f}e9, "
        f"at {ASSUMED_MFU:.0%} of {peak / 1e12:.0f} TFLOP/s ({name})"
    )
    return GpuHours(hours, basis)
