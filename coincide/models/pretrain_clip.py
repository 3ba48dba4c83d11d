"""Contrastive training of the demo's tiny CLIP on the captions of stage 1.

    python -m coincide.models.pretrain_clip          # about two minutes on one core

Writes ``coincide/assets/tiny/clip.safetensors`` and beside it a record of the training. Pictures of
the training and test sets are not used.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from coincide.data.demo.captions import captioned
from coincide.models.clip import (
    load_shipped,
    make_clip,
    make_clip_processor,
    retrieval,
    words_digest,
)
from coincide.models.pretrain import schedule
from coincide.models.tiny import ASSETS
from coincide.store.provenance import versions

STEPS, BATCH, LR, SEED = 600, 128, 2.0e-3, 0
EVERY = 50


def train(steps: int = STEPS, stop: int | None = None) -> tuple[Any, list[dict[str, float]]]:
    """The trained model, and its loss every ``EVERY`` steps.

    ``stop`` ends early, on the schedule of ``steps``.
    """
    import torch

    torch.set_num_threads(1)  # on any machine the same sums in the same order
    torch.manual_seed(SEED)
    processor = make_clip_processor()
    model = make_clip(processor.tokenizer).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.98), weight_decay=0.01)
    trace: list[dict[str, float]] = []
    losses: list[float] = []
    for step in range(stop or steps):
        for group in optimizer.param_groups:
            group["lr"] = LR * schedule(step, steps)
        rng = np.random.Generator(np.random.PCG64([SEED, 5, step]))
        loss = model(**captioned(rng, BATCH, "pretrain", processor), return_loss=True).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
        if (step + 1) % EVERY == 0:
            trace.append({"step": step + 1, "loss": round(float(np.mean(losses[-EVERY:])), 4)})
            print(f"clip step {step + 1}: loss {trace[-1]['loss']:.3f}", flush=True)
    return model.eval(), trace


def save(model: Any, trace: list[dict[str, float]], folder: Path = ASSETS) -> dict[str, Any]:
    """Write the weights (fp16) and the record of the training; returns the record."""
    import torch
    from safetensors.torch import save_file

    state = {k: v.to(torch.float16).contiguous() for k, v in model.state_dict().items()}
    save_file(state, folder / "clip.safetensors", {"words": words_digest()})
    processor = make_clip_processor()
    record = {
        "command": "python -m coincide.models.pretrain_clip",
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": STEPS,
        "batch": BATCH,
        "retrieval": retrieval(load_shipped(processor, folder), processor),
        "versions": {
            k: v for k, v in versions().items() if k in ("torch", "transformers", "numpy")
        },
        "trace": trace,
    }
    (folder / "clip.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


if __name__ == "__main__":
    print(json.dumps(save(*train())["retrieval"]))
