"""Stage 1 of the tiny models: captions of generated pictures, as LLaVA's stage 1 aligns.

    python -m coincide.models.pretrain tiny          # about ten minutes on two cores

Writes ``coincide/assets/tiny/<size>.safetensors`` and beside it the record of how it got there.
Tower, projector and language model are all trained: there is no pretrained CLIP or Llama of
this size to start from. The pictures are never those of the training or test sets.
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

from coincide.models.perception import caption_accuracy, tokens_and_pixels
from coincide.models.tiny import ASSETS, SIZES_OF, make_model, make_processor
from coincide.provenance import versions

STEPS, BATCH, LR, WARMUP, SEED = 2200, 64, 2.0e-3, 100, 0
EVERY = 20


def pretrain(
    size: str, *, steps: int = STEPS, stop: int | None = None
) -> tuple[Any, list[dict[str, float]]]:
    """Train ``size``; return the model and its loss every ``EVERY`` steps.

    ``stop`` ends early on the schedule of ``steps``: the trace then is the beginning of the whole.
    """
    import torch

    torch.manual_seed(SEED)
    processor = make_processor()
    model = make_model(SIZES_OF[size], processor.tokenizer).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.98), weight_decay=0.01)
    trace: list[dict[str, float]] = []
    losses: list[float] = []
    started = time.monotonic()
    for step, batch in enumerate(batches(processor, stop or steps)):
        for group in optimizer.param_groups:
            group["lr"] = LR * schedule(step, steps)
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
    return model.eval(), trace


def batches(processor: Any, count: int) -> Iterator[dict[str, Any]]:
    """``count`` batches of fresh captioned pictures; batch i depends on i alone."""
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
    model: Any, trace: list[dict[str, float]], size: str, folder: Path = ASSETS
) -> dict[str, Any]:
    """Write the weights (fp16) and the record; return the record."""
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
        "perception": caption_accuracy(shipped, processor, scenes=256, seed=7),
        "versions": {
            k: v for k, v in versions().items() if k in ("torch", "transformers", "numpy")
        },
        "trace": trace,
    }
    (folder / f"{size}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def main() -> None:
    """Train and save one size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("size", choices=sorted(SIZES_OF))
    size = parser.parse_args().size
    model, trace = pretrain(size)
    print(json.dumps(save(model, trace, size)["perception"], indent=1))


if __name__ == "__main__":
    main()
