"""What ``bench.gradients`` measures on: models with trained adapters, and rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from coincide.models.encode import IGNORE, Encoded, collate, encode, model_inputs
from coincide.models.load import load_model, load_processor
from coincide.models.template import TEMPLATES
from coincide.schema import Example
from coincide.store import Store
from train.lora import add_lora, save_adapter, trainable_state
from train.moments import moments_of
from train.recipe import Recipe

RECIPE = Recipe(rank=16, alpha=32, dropout=0.0, zero_stage=0, micro_batch=16, global_batch=16,
                gradient_checkpointing=False)  # fmt: skip


@dataclass(frozen=True)
class Material:
    """The model with its adapter, and the rows."""

    base: Path
    adapter: Path
    rows: list[Encoded]
    tasks: np.ndarray
    """int [n]: the source of each row."""
    targets: int
    """How many of the last rows are targets."""


def tiny(root: Path, count: int, *, pictures: bool = True) -> Material:
    """The demo's target, finetuned on some of its rows, and rows that it has not seen."""
    from coincide.data.demo import Demo
    from coincide.models.tiny import Tiny

    store = Store(root / "store")
    model, source = Tiny("tiny", "tiny", "tiny", 512), Demo(n=max(200, 2 * count), items=1)
    for step in (model.step(), source.step()):
        store.ensure(step)
    base = store.artifact(model.step()).path / "model"
    data = source.open(store.artifact(source.step()).path)
    processor = load_processor(base)
    examples = data.examples if pictures else [without(e) for e in data.examples]
    encoded = [encode(e, data, processor, TEMPLATES["tiny"], 512) for e in examples]
    names = sorted({e.source for e in examples})
    tasks = np.array([names.index(e.source) for e in examples])
    pad = int(processor.tokenizer.pad_token_id)
    adapter = _finetuned(base, encoded[count:], root, steps=60, pad=pad)
    return Material(base, adapter, encoded[:count], tasks[:count], count // 4)


def without(example: Example) -> Example:
    """The example without its pictures."""
    turns = tuple(replace(t, text=t.text.replace("<image>\n", "")) for t in example.turns)
    return replace(example, images=(), turns=turns)


def wide(root: Path, count: int) -> Material:
    """A decoder of width 512 with random weights, and rows of random words."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig
    from transformers import LlavaForConditionalGeneration as Llava

    torch.manual_seed(0)
    vision = CLIPVisionConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                              num_attention_heads=2, image_size=48, patch_size=12)  # fmt: skip
    text = LlamaConfig(vocab_size=2048, hidden_size=512, intermediate_size=1376,
                       num_hidden_layers=6, num_attention_heads=8)  # fmt: skip
    base = root / "wide"
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_id=2047)
    Llava(config).save_pretrained(base)
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(2 * count):
        length = int(rng.integers(120, 257))
        ids = torch.from_numpy(rng.integers(5, 2000, length))
        answer = torch.arange(length) >= length - int(rng.integers(8, 40))
        seen = torch.ones(length, dtype=torch.bool)
        rows.append(Encoded(ids, ids.masked_fill(~answer, IGNORE), ~seen, seen, None))
    adapter = _finetuned(base, rows[count:], root, steps=10, pad=0)
    return Material(base, adapter, rows[:count], np.arange(count) % 7, count // 4)


def _finetuned(base: Path, rows: Sequence[Encoded], root: Path, *, steps: int, pad: int) -> Path:
    """Adapter and moments after ``steps`` of AdamW: a folder ``at-00``."""
    from safetensors.torch import save_file

    from coincide.models.tuned import MOMENTS

    torch.manual_seed(0)
    model = add_lora(load_model(base, torch.float32, "cpu"), RECIPE, base="", keep_dtype=False)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=4e-3, weight_decay=0.0)
    order = np.random.default_rng(0).integers(0, len(rows), (steps, 16))
    for batch in order.tolist():
        inputs = model_inputs(collate([rows[i] for i in batch], pad))
        loss = model(**inputs).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    folder = root / "adapter" / "at-00"
    save_adapter(model, trainable_state(model), folder)
    save_file(moments_of(model, optimizer), folder / MOMENTS)
    return folder
