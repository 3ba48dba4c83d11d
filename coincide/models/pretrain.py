"""Pretraining of the tiny models: a vision tower that names cells, then stage 1 on captions.

    python -m coincide.models.pretrain tiny          # about ten minutes on two cores

First the vision tower learns to name what each cell contains, in place of CLIP's pretraining (there
is no CLIP of this size). Then tower, projector and language model learn captions of generated
pictures, as in LLaVA's stage 1. Writes ``coincide/assets/tiny/<size>.safetensors`` and beside it a
record of the training. Pictures of the training and test sets are not used.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from coincide.data.demo.world import COLOUR_NAMES, LETTERS, NUMBERS, SHAPES, TEXTURES, Thing
from coincide.data.demo.world import SIZES as WORLD_SIZES
from coincide.models.perception import as_pixels, caption_accuracy, tokens_and_pixels
from coincide.models.tiny import ASSETS, SIZES_OF, make_model, make_processor
from coincide.store.provenance import versions

STEPS, BATCH, LR, WARMUP, SEED = 1400, 64, 2.0e-3, 100, 0
TOWER_STEPS, TOWER_BATCH = 1500, 128
EVERY = 20


def pretrain(size: str) -> tuple[Any, dict[str, list[dict[str, float]]]]:
    """Train ``size``; returns the model and the losses of tower and captions over time."""
    import torch

    torch.manual_seed(SEED)
    processor = make_processor()
    model = make_model(SIZES_OF[size], processor.tokenizer).train()
    tower_trace = name_cells(model.model.vision_tower)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.98), weight_decay=0.01)
    trace: list[dict[str, float]] = []
    losses: list[float] = []
    started = time.monotonic()
    for step, batch in enumerate(batches(processor, STEPS)):
        for group in optimizer.param_groups:
            group["lr"] = LR * schedule(step, STEPS)
        loss = model(**batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
        if (step + 1) % EVERY == 0:
            trace.append({"step": step + 1, "loss": round(float(np.mean(losses[-EVERY:])), 5)})
            if (step + 1) % (5 * EVERY) == 0:
                rate = (step + 1) * BATCH / (time.monotonic() - started)
                print(
                    f"{size} step {step + 1}: loss {trace[-1]['loss']:.4f}, {rate:.0f}/s",
                    flush=True,
                )
    return model.eval(), {"tower": tower_trace, "captions": trace}


def name_cells(tower: Any, stop: int = TOWER_STEPS) -> list[dict[str, float]]:
    """Train ``tower`` to predict name, colour and size of each cell; returns its loss over time.

    ``stop`` ends early, on the schedule of the whole training.
    """
    import torch
    from torch.nn.functional import cross_entropy

    from coincide.data.demo.captions import any_scene
    from coincide.data.demo.world import draw

    head = torch.nn.Linear(tower.config.hidden_size, sum(len(c) for c in CLASSES))
    parameters = [*tower.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=LR, weight_decay=0.01)
    trace: list[dict[str, float]] = []
    for step in range(stop):
        rng = np.random.Generator(np.random.PCG64([SEED, 1, step]))
        scenes = [any_scene(rng, "pretrain") for _ in range(TOWER_BATCH)]
        pixels = np.stack([draw(scene, rng) for scene in scenes])
        truth = torch.tensor([[_classes(thing) for thing in scene] for scene in scenes])
        states = tower(as_pixels(pixels), output_hidden_states=True).hidden_states[-1][:, 1:]
        parts = head(states).split([len(c) for c in CLASSES], dim=-1)
        loss = sum(
            (
                cross_entropy(part.flatten(0, 1), truth[..., i].flatten())
                for i, part in enumerate(parts)
            ),
            start=torch.zeros(()),
        )
        for group in optimizer.param_groups:
            group["lr"] = LR * schedule(step, TOWER_STEPS)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % (5 * EVERY) == 0:
            trace.append({"step": step + 1, "loss": round(float(loss.detach()), 4)})
            print(f"tower step {step + 1}: loss {trace[-1]['loss']:.4f}", flush=True)
    return trace


CLASSES = (
    ("", *SHAPES, *TEXTURES, "bar", *NUMBERS, *LETTERS),
    ("", *COLOUR_NAMES),
    ("", *WORLD_SIZES),
)
"""Names, colours and sizes that a cell can have; the empty string if it has none."""


def _classes(thing: Thing | None) -> list[int]:
    if thing is None:
        return [0, 0, 0]
    words = (thing.name, thing.colour, thing.size)
    return [names.index(word) for names, word in zip(CLASSES, words, strict=True)]


def batches(processor: Any, count: int) -> Iterator[dict[str, Any]]:
    """``count`` batches of new captioned pictures; batch i depends only on i."""
    from coincide.data.demo.captions import any_scene, caption
    from coincide.data.demo.world import draw

    for i in range(count):
        rng = np.random.Generator(np.random.PCG64([SEED, 0, i]))
        scenes = [any_scene(rng, "pretrain") for _ in range(BATCH)]
        texts = [caption(scene, rng) for scene in scenes]
        yield tokens_and_pixels([draw(scene, rng) for scene in scenes], texts, processor)


def schedule(step: int, steps: int) -> float:
    """Linear warm-up, then cosine to zero."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    return 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / max(1, steps - WARMUP)))


def save(
    model: Any, traces: dict[str, list[dict[str, float]]], size: str, folder: Path = ASSETS
) -> dict[str, Any]:
    """Write the weights (fp16) and the record of the training; returns the record."""
    import torch
    from safetensors.torch import save_file

    from coincide.models.tiny import load_shipped

    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.to(torch.float16).contiguous() for k, v in model.state_dict().items()}
    state.pop("lm_head.weight", None)
    save_file(state, folder / f"{size}.safetensors")
    processor = make_processor()
    shipped = load_shipped(size, processor, folder)
    record = {
        "command": f"python -m coincide.models.pretrain {size}",
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": STEPS,
        "batch": BATCH,
        "tower_steps": TOWER_STEPS,
        "tower_batch": TOWER_BATCH,
        "perception": caption_accuracy(shipped, processor, scenes=256, seed=7),
        "versions": {
            k: v for k, v in versions().items() if k in ("torch", "transformers", "numpy")
        },
        "traces": traces,
    }
    (folder / f"{size}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def main() -> None:
    """Train and save one size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("size", choices=sorted(SIZES_OF))
    size = parser.parse_args().size
    model, traces = pretrain(size)
    print(json.dumps(save(model, traces, size)["perception"], indent=1))


if __name__ == "__main__":
    main()
