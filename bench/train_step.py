"""Print what one LoRA step of LLaVA-1.5-7B costs: examples/s, tokens/s, model FLOP utilisation.

    python -m bench.train_step                      # LLaVA-1.5-7B's shapes, on a GPU
    python -m bench.train_step --micro-batch 4 --no-checkpointing
    python -m bench.train_step --shape tiny         # seconds on a CPU: that it runs at all

Random weights of the real shapes, made on the device, and the recipe of conf/train/lora.yaml: LoRA
on the language model's linears, the projector whole, checkpointed layers, AdamW. A micro-batch
holds full images and as much text as LLaVA-665K has on average; no data is read. Model FLOPs are
those of train/estimate.py with the layers that run twice counted once.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch

from coincide.checks.flops import PEAKS
from coincide.models.encode import IGNORE
from train.estimate import step_flops
from train.lora import add_lora, parameter_groups
from train.recipe import Recipe
from train.trainer import answer_loss

TEXT_TOKENS, ANSWER_TOKENS = 174, 100
"""With an image's 576 tokens 750 a row."""
SHAPES: dict[str, dict[str, dict[str, Any]]] = {
    "7b": {
        "text": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
                 "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32064},
        "vision": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
                   "num_attention_heads": 16, "image_size": 336, "patch_size": 14},
    },
    "tiny": {
        "text": {"hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 2,
                 "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 512},
        "vision": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
                   "num_attention_heads": 4, "image_size": 56, "patch_size": 14},
    },
}  # fmt: skip


@dataclass(frozen=True)
class Figures:
    """Of the timed steps."""

    device: str
    parameters: int
    trained: int
    examples_per_second: float
    tokens_per_second: float
    flops_per_second: float
    peak_bytes: int | None

    def lines(self) -> list[str]:
        """What is printed."""
        known = next((name for name in PEAKS if name in self.device), None)
        reached = "no peak known for this device"
        if known is not None:
            share = self.flops_per_second / PEAKS[known]
            reached = f"{share:.1%} of {PEAKS[known] / 1e12:.0f} TFLOP/s ({known}, dense 16-bit)"
        memory = "" if self.peak_bytes is None else f", {self.peak_bytes / 2**30:.1f} GiB at most"
        return [
            f"device         {self.device}, torch {torch.__version__}",
            f"model          {self.parameters:,} parameters, {self.trained:,} trained{memory}",
            f"examples/s     {self.examples_per_second:.2f}",
            f"tokens/s       {self.tokens_per_second:,.0f}",
            f"model FLOP/s   {self.flops_per_second / 1e12:.4g} T; MFU {reached}",
        ]


def main(arguments: Sequence[str] | None = None) -> Figures:
    """Time a few optimizer steps after two to warm up."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", choices=sorted(SHAPES), default="7b")
    parser.add_argument("--micro-batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--no-checkpointing", action="store_true")
    options = parser.parse_args(arguments)
    recipe = replace(
        Recipe(zero_stage=0),
        micro_batch=options.micro_batch,
        gradient_checkpointing=not options.no_checkpointing,
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    figures = measure(recipe, SHAPES[options.shape], device, options.steps)
    print("\n".join(figures.lines()))
    return figures


def measure(recipe: Recipe, shape: dict[str, dict[str, Any]], device: str, steps: int) -> Figures:
    """Figures of ``steps`` optimizer steps of one micro-batch each."""
    torch.manual_seed(0)
    base = random_llava(shape, device)
    parameters = sum(p.numel() for p in base.parameters())
    model = adapted(base, recipe)
    optimizer = torch.optim.AdamW(parameter_groups(model, recipe))
    batch = random_batch(base.config, recipe.micro_batch, device)
    for _ in range(2):
        one_step(model, optimizer, batch)
    seconds = timed(lambda: one_step(model, optimizer, batch), steps, device)
    tokens = steps * batch["input_ids"].numel()
    counted_once = replace(recipe, gradient_checkpointing=False)
    return Figures(
        device=torch.cuda.get_device_name() if device == "cuda" else "CPU",
        parameters=parameters,
        trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
        examples_per_second=steps * recipe.micro_batch / seconds,
        tokens_per_second=tokens / seconds,
        flops_per_second=step_flops(counted_once, tokens, parameters) / seconds,
        peak_bytes=torch.cuda.max_memory_allocated() if device == "cuda" else None,
    )


def random_llava(shape: dict[str, dict[str, Any]], device: str) -> Any:
    """LLaVA of that shape with small random weights, bf16 on a GPU; no weight passes the CPU."""
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    side = shape["vision"]["image_size"] // shape["vision"]["patch_size"]
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**shape["vision"]),
        text_config=LlamaConfig(**shape["text"], max_position_embeddings=4096),
        image_token_index=shape["text"]["vocab_size"] - 1,
        image_seq_length=side * side,
    )
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = LlavaForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    return model


def adapted(base: Any, recipe: Recipe) -> Any:
    """``base`` with the recipe's adapters, in training mode, layers checkpointed if asked for."""
    if recipe.gradient_checkpointing:
        base.activation_checkpointing_enable({"use_reentrant": False})
    return add_lora(base, recipe, base="random", keep_dtype=False).train()


def random_batch(config: Any, examples: int, device: str) -> dict[str, torch.Tensor]:
    """``examples`` rows of one image, a question and an answer of random tokens."""
    image = torch.full((examples, config.image_seq_length), config.image_token_index)
    words = config.text_config.vocab_size - 1
    text = torch.randint(3, words, (examples, TEXT_TOKENS))
    input_ids = torch.cat([image, text], dim=1)
    labels = torch.full_like(input_ids, IGNORE)
    labels[:, -ANSWER_TOKENS:] = input_ids[:, -ANSWER_TOKENS:]
    side = config.vision_config.image_size
    batch = {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "labels": labels,
        "pixel_values": torch.randn(examples, 3, side, side),
    }
    return {name: tensor.to(device) for name, tensor in batch.items()}


def one_step(model: Any, optimizer: torch.optim.Optimizer, batch: dict[str, torch.Tensor]) -> None:
    """Forward, backward and update, as a rank does them."""
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    device = batch["labels"].device.type
    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        logits = model(**inputs, use_cache=False).logits
    answers = (batch["labels"][:, 1:] != IGNORE).sum()
    loss = answer_loss(SimpleNamespace(logits=logits), batch["labels"], answers)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def timed(work: Any, times: int, device: str) -> float:
    """Wall-clock seconds of ``times`` calls, all of the device's work included."""
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(times):
        work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
