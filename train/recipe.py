"""The finetuning recipe: the fields of ``conf/train/*.yaml``, checked before anything is queued."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from coincide.schema import UserError

ZERO_STAGES = (0, 2, 3)
QUANTIZATIONS = (None, "nf4")
PRECISIONS = ("auto", "bf16", "fp32")
SCHEDULES = ("cosine", "linear", "constant")
ORDERS = ("seed", "rows")
"""Of the examples: a permutation per epoch; or by a hash of seed, epoch and the row's number in the
dataset, so that two subsets show the rows that they share in the same relative order."""
LINEARS = ("all", "attention")
NEW = {"quantization": None, "order": "seed", "average": 0.0, "seed": None, "linears": "all"}
"""Fields that came later, with what recipes did before: at these values they are not in the key."""
SPEED_ONLY = frozenset(
    {
        "micro_batch",
        "merged",
        "gradient_checkpointing",
        "zero_stage",
        "processes",
        "nodes",
        "timeout",
        "workers",
        "threads",
        "save_every",
    }
)
"""Fields that change the speed but not the result; left out of the key."""


@dataclass(frozen=True)
class Recipe:
    """LoRA finetuning as in LLaVA-1.5 (``scripts/v1_5/finetune_lora.sh``).

    The user sets ``global_batch``; the accumulation follows from ``micro_batch`` and the number of
    processes. LoRA targets, parameter groups with their rates and decay, AdamW, the schedule step
    by step, the global batches and the tensors saved are those of LLaVA's code
    (``tests/train/test_llava_recipe.py``). Deliberate differences:

    - *Loss*: the mean over the answer tokens of the whole global batch, however it was split.
      LLaVA averages over each micro-batch first and then over these means, so that a short answer
      weighs more beside other short ones, and the result depends on the number of GPUs.
    - *Last batch of an epoch*: it is filled up with rows that add nothing to the loss;
      accelerate repeats the first examples of the epoch.
    - *Order*: from ``seed`` and epoch alone (``order``), where LLaVA draws from torch's global
      generator.
    - *Files*: one safetensors file with LoRA and projector; LLaVA pickles the projector into
      ``non_lora_trainables.bin``. A checkpoint holds the trained tensors, projector included
      (LLaVA's resume loses it); with ZeRO it can only be loaded by as many processes as wrote it.
    - *nf4*: ``lm_head``, vision tower and projector stay unquantized; LLaVA's ``--bits 4``
      quantizes ``lm_head`` too.
    """

    linears: str = "all"
    """Of the decoder, which LoRA adapts: one of ``LINEARS``."""
    rank: int = 128
    alpha: int = 256
    dropout: float = 0.05
    lr: float = 2e-4
    projector_lr: float = 2e-5
    weight_decay: float = 0.0
    schedule: str = "cosine"
    warmup_ratio: float = 0.03
    max_grad_norm: float = 0.0
    """0: no clipping. LLaVA's DeepSpeed files set none, so Trainer's 1.0 has no effect there."""
    epochs: int = 1
    max_steps: int | None = None
    """Stop after so many optimizer steps (the schedule ends there as well); None: all epochs."""
    global_batch: int = 128
    max_length: int = 2048
    """Maximum tokens per example, image tokens included; the model's own limit applies as well."""
    group_by_modality_length: bool = True
    """Keep image and text-only examples in separate global batches (``train.sampler``)."""
    order: str = "seed"
    """One of ``ORDERS``."""
    average: float = 0.0
    """The adapter is the mean of the weights after each of the last steps, this share of all; 0:
    the last weights."""
    seed: int | None = None
    """Of initial weights, order and dropout; None: the run's, which also is that of the selection.
    """
    precision: str = "auto"
    """``auto``: bf16 if the hardware supports it, else fp32."""
    quantization: str | None = None
    """``nf4``: QLoRA, the frozen language model in 4 bits (Dettmers et al. 2023); None: none."""
    micro_batch: int = 16
    """Examples per forward pass of one process."""
    merged: bool = False
    """One product for a linear and its adapter (``train.merged``): faster in narrow models."""
    gradient_checkpointing: bool = True
    zero_stage: int = 3
    """DeepSpeed ZeRO stage; 0 trains without DeepSpeed."""
    processes: int | str = "auto"
    """Processes per node; ``auto``: one per GPU, or one without GPUs."""
    nodes: int = 1
    """Number of machines: a SLURM allocation, or those named by torchrun's variables."""
    timeout: int = 600
    """Seconds that a rank waits for other ranks, and a node for other nodes, before it gives up."""
    workers: int = 4
    """Processes per rank that read images ahead; 0: the rank reads them itself."""
    threads: int | None = None
    """CPU threads per rank; None: torch's default."""
    save_every: int | None = 100
    """Optimizer steps between checkpoints; None: no checkpoints."""

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_ranges()
        if self.processes != "auto":
            self.accumulation(int(self.processes) * self.nodes)
        elif self.global_batch % self.micro_batch:
            self.accumulation(1)

    def accumulation(self, world_size: int, micro_batch: int | None = None) -> int:
        """Micro-batches per optimizer step and process.

        Raises UserError if ``world_size`` processes and the micro-batch do not divide the global
        batch.
        """
        micro = self.micro_batch if micro_batch is None else micro_batch
        at_once = micro * world_size
        if self.global_batch % at_once == 0:
            return self.global_batch // at_once
        below = self.global_batch // at_once * at_once
        batches = " or ".join(str(b) for b in (below, below + at_once) if b)
        fitting = largest_micro_batch(self.global_batch, world_size, micro)
        instead = f", or train.micro_batch={fitting}" if fitting else ""
        raise UserError(
            f"train.global_batch={self.global_batch} cannot be split evenly: train.micro_batch="
            f"{micro} on {world_size} process(es) takes {at_once} examples at a time. "
            f"Set train.global_batch={batches}{instead}."
        )

    def answer_config(self) -> dict[str, Any]:
        """The fields that change the adapter, for the artifact's key."""
        fields = {name: v for name, v in asdict(self).items() if name not in SPEED_ONLY}
        return {name: value for name, value in fields.items() if value != NEW.get(name, NEW)}

    def _check_choices(self) -> None:
        choices: tuple[tuple[str, tuple[Any, ...]], ...] = (
            ("zero_stage", ZERO_STAGES),
            ("precision", PRECISIONS),
            ("schedule", SCHEDULES),
            ("quantization", QUANTIZATIONS),
            ("order", ORDERS),
            ("linears", LINEARS),
        )
        for name, allowed in choices:
            if getattr(self, name) not in allowed:
                listed = ", ".join(str(a) for a in allowed)
                raise UserError(f"train.{name}={getattr(self, name)!r}: choose one of {listed}.")
        if self.quantization and self.zero_stage == 3:
            raise UserError(
                f"train.quantization={self.quantization} with train.zero_stage=3: ZeRO-3 cuts "
                "weights into shards, and 4-bit blocks cannot be cut. Set train.zero_stage=2 (one "
                "process or several) or 0; the 4-bit model is small enough to stand on every GPU."
            )
        self._check_merged()
        if self.processes != "auto" and not _positive_int(self.processes):
            raise UserError(
                f"train.processes={self.processes!r}: give a number of processes per node, 1 or "
                "more, or auto (one per GPU)."
            )

    def _check_merged(self) -> None:
        if type(self.merged) is not bool:
            raise UserError(f"train.merged={self.merged!r}: expected true or false.")
        needed = {"dropout": 0.0, "precision": "fp32", "quantization": None}
        other = [name for name, value in needed.items() if getattr(self, name) != value]
        other += ["zero_stage"] if self.zero_stage == 3 else []
        if self.merged and other:
            got = ", ".join(f"train.{name}={getattr(self, name)}" for name in other)
            raise UserError(
                f"train.merged=true with {got}: the sum of a linear's weights and its adapter is "
                "the same function only without dropout, in fp32, neither quantized nor sharded. "
                "Set train.merged=false, or train.dropout=0 train.precision=fp32 "
                "train.quantization=null train.zero_stage=0."
            )

    def _check_ranges(self) -> None:
        counts = "rank alpha epochs global_batch max_length micro_batch nodes timeout"
        for name in counts.split():
            if not _positive_int(getattr(self, name)):
                raise UserError(
                    f"train.{name}={getattr(self, name)!r}: expected a whole number, 1 or more."
                )
        for name in ("max_steps", "save_every", "threads"):
            value = getattr(self, name)
            if value is not None and not _positive_int(value):
                raise UserError(
                    f"train.{name}={value!r}: expected a whole number, 1 or more, or null."
                )
        if not isinstance(self.workers, int) or self.workers < 0:
            raise UserError(f"train.workers={self.workers!r}: expected a whole number, 0 or more.")
        if self.seed is not None and (type(self.seed) is not int or self.seed < 0):
            raise UserError(
                f"train.seed={self.seed!r}: expected a whole number, 0 or more, or null for the "
                "run's seed."
            )
        for name, top in (("dropout", 1.0), ("warmup_ratio", 1.0), ("average", 1.0)):
            if not 0.0 <= getattr(self, name) < top:
                raise UserError(f"train.{name}={getattr(self, name)!r}: expected 0 <= x < {top}.")
        for name in ("lr", "projector_lr", "weight_decay", "max_grad_norm"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise UserError(f"train.{name}={getattr(self, name)!r}: expected 0 or more.")


def largest_micro_batch(global_batch: int, world_size: int, at_most: int) -> int | None:
    """The largest micro-batch up to ``at_most`` that divides the global batch.

    None if none does.
    """
    fitting = [m for m in range(1, at_most + 1) if global_batch % (m * world_size) == 0]
    return fitting[-1] if fitting else None


def _positive_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
