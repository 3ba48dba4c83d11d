"""Self-Filter's stage 1: a score net learns together with the model which examples are hard.

The net S is one linear layer without bias on f, CLIP's image and text embedding side by side. For a
batch of B examples, w = softmax of S(f) over the batch, and

    loss = sum over answer tokens t of example i: B w_i CE_it / number of answer tokens

So the net learns to give little weight to what the model cannot fit: difficulty d_i = -S(f_i)
(Chen et al. 2024, equations 2-4; RayRuiboChen/Self-Filter, setting *clip*).

As released: the vision tower is frozen, projector and language model are trained whole, one batch
is one device's batch. Ours differs: one epoch instead of three, S starts at zero (so that d is what
was learnt, not what was drawn), and rows without an image or without answer tokens take no part.
One process trains on one device; a killed stage 1 starts again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coincide.features.extract import device_of, usable_rows
from coincide.features.shards import ShardedArray
from coincide.models.encode import IGNORE, Encoded, collate, encode
from coincide.models.template import TEMPLATES
from coincide.schema import Dataset, DataSource, Difficulty, ModelSource, UserError
from coincide.store import Build, Step, write_json

VERSION = 1
WARMUP = 0.03
"""Share of the steps over which the rate rises, as in LLaVA's recipes."""


def difficulty_step(
    need: Difficulty,
    signals: Sequence[Step],
    *,
    model: ModelSource,
    base: Step,
    source: DataSource,
    data: Step,
) -> Step:
    """The artifact of stage 1: ``difficulty.npy`` float32 [N] (NaN: took no part),

    ``score_net.safetensors`` (``weight`` [1, image + text]), the stage-1 model under ``model/`` and
    ``log.json``. ``signals`` are the steps of ``need.signals``.
    """
    config = {
        **{name: value for name, value in asdict(need).items() if name != "signals"},
        "template": model.template,
        "max_length": model.max_length,
    }

    def build(build: Build) -> dict[str, Any]:
        dataset = source.open(build.need(0).path)
        folders = [build.store.verify(step).path for step in signals]
        with _one_thread():
            return _stage_one(build, need, model, dataset, folders)

    name = f"{model.name}-{source.name}"
    return Step("difficulty", name, VERSION, config, build, (data, base, *signals))


def weighted_loss(
    logits: torch.Tensor, labels: torch.Tensor, scores: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss above and the weights w, [B].

    ``logits`` [B, T, V], ``labels`` int64 [B, T] (-100 off the answers, not shifted), ``scores``
    S(f) [B].
    """
    weights = torch.softmax(scores, dim=0)
    targets = labels[:, 1:]
    rows, places = torch.nonzero(targets != IGNORE, as_tuple=True)
    losses = torch.nn.functional.cross_entropy(
        logits[rows, places].float(), targets[rows, places], reduction="none"
    )
    return len(scores) * (weights[rows] * losses).sum() / max(1, len(rows)), weights


def _stage_one(
    build: Build, need: Difficulty, model: ModelSource, dataset: Dataset, folders: list[Path]
) -> dict[str, Any]:
    from safetensors.torch import save_file

    from coincide.models.load import load_model, load_processor
    from coincide.progress import bar

    folder = build.need(1).path / "model"
    device = device_of("auto")
    processor = load_processor(folder)
    network = load_model(folder, torch.float32, device)
    network.requires_grad_(True)
    network.model.vision_tower.requires_grad_(False)
    features = np.concatenate([ShardedArray(path)[:] for path in folders], axis=1)
    net = torch.nn.Linear(features.shape[1], 1, bias=False, device=device)
    torch.nn.init.zeros_(net.weight)

    rows = np.flatnonzero(usable_rows(folders) & np.isfinite(features).all(axis=1))
    taught = np.zeros(len(dataset), dtype=bool)
    batches = [batch for epoch in range(need.epochs) for batch in cut(rows, need, epoch)]
    optimizer, rate = _optimizer(network, net, need.lr, len(batches))
    log = []
    with bar("self_filter", total=len(batches), unit="step") as progress:
        for batch in batches:
            encoded = _encoded(batch, dataset, processor, model)
            taught[list(encoded)] = True
            if encoded:
                f = torch.from_numpy(features[list(encoded)]).to(device)
                inputs = collate(list(encoded.values()), processor.tokenizer.pad_token_id)
                log.append(step(network, net, inputs, f, optimizer))
                rate.step()
            progress.update(1)

    difficulty = difficulties(net, features, taught)
    np.save(build.dir / "difficulty.npy", difficulty, allow_pickle=False)
    save_file({"weight": net.weight.detach().cpu()}, build.dir / "score_net.safetensors")
    network.save_pretrained(build.dir / "model")
    processor.save_pretrained(build.dir / "model")
    write_json(build.dir / "log.json", log)
    known = difficulty[taught]
    return {
        "rows": int(taught.sum()),
        "steps": len(log),
        "loss_first": log[0]["loss"],
        "loss_last": log[-1]["loss"],
        "difficulty": [float(q) for q in np.quantile(known, [0, 0.25, 0.5, 0.75, 1])],
    }


def step(
    network: Any,
    net: torch.nn.Linear,
    inputs: dict[str, torch.Tensor],
    features: torch.Tensor,
    optimizer: torch.optim.Optimizer,
) -> dict[str, float]:
    """One step of both; ``features`` float32 [B, D], ``inputs`` as ``collate`` gives them."""
    device = net.weight.device
    wanted = ("input_ids", "attention_mask", "pixel_values")
    output = network(**{name: inputs[name].to(device) for name in wanted}, use_cache=False)
    scores = net(features)[:, 0]
    loss, weights = weighted_loss(output.logits, inputs["labels"].to(device), scores)
    if not loss.isfinite():
        raise UserError(f"Self-Filter's stage 1: the loss is {float(loss)}. Lower method.lr.")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return {"loss": float(loss.detach()), "largest_weight": float(weights.max().detach())}


def cut(rows: np.ndarray, need: Difficulty, epoch: int) -> list[np.ndarray]:
    """The batches of one epoch: ``rows`` shuffled by seed and epoch."""
    shuffled = np.random.default_rng((need.seed, epoch)).permutation(rows)
    return [shuffled[at : at + need.batch] for at in range(0, len(rows), need.batch)]


def difficulties(net: torch.nn.Linear, features: np.ndarray, taught: np.ndarray) -> np.ndarray:
    """d = -S(f): float32 [N], NaN for rows that are not ``taught``."""
    weight = net.weight.detach().cpu().numpy()[0].astype(np.float64)
    found = np.full(len(features), np.nan, dtype=np.float32)
    found[taught] = -(features[taught].astype(np.float64) * weight).sum(axis=1)
    return found


def _encoded(
    batch: np.ndarray, dataset: Dataset, processor: Any, model: ModelSource
) -> dict[int, Encoded]:
    """The rows of ``batch`` that have something to learn, by row."""
    template = TEMPLATES[model.template]
    found = {
        int(row): encode(dataset.examples[row], dataset, processor, template, model.max_length)
        for row in batch
    }
    return {row: e for row, e in found.items() if (e.labels[1:] != IGNORE).any()}


def _optimizer(
    network: Any, net: torch.nn.Linear, lr: float, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW over both, warm-up, then cosine to zero."""
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW([*trained, *net.parameters()], lr=lr, weight_decay=0.0)
    warmup = max(1, round(WARMUP * steps))

    def factor(at: int) -> float:
        if at < warmup:
            return (at + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (at - warmup) / max(1, steps - warmup)))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


@contextmanager
def _one_thread() -> Iterator[None]:
    """One CPU thread inside: on any machine the same sums in the same order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
