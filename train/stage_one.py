"""Stage 1 of Self-Filter and CoIDO on one device: loss, training loop, memory and checkpoints.

``train.self_filter`` and ``train.joint_scorer`` explain the methods; this module is apart because
it needs torch.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coincide.data.reasons import rows_of
from coincide.features.engine.devices import device_of
from coincide.features.engine.shards import ShardedArray, usable_rows
from coincide.models.encode import IGNORE, Encoded, collate, encode, model_inputs
from coincide.models.recompute import checkpoint_layers
from coincide.models.template import TEMPLATES
from coincide.schema import Dataset, Difficulty, JointDifficulty, ModelSource, UserError
from coincide.store import Build
from coincide.system.files import write_json
from train.joint_scorer import (
    JointScorer,
    Regularize,
    clusters_of,
    part_of,
    scale,
    scorer_inputs,
)
from train.oom import is_out_of_memory
from train.recipe import Recipe
from train.stage_one_state import Progress, load, save

WARMUP = 0.03
"""Share of the steps in which the learning rate rises, as in LLaVA's recipes."""
STATE = "state.safetensors"
BYTES_PER_PARAMETER = 16
"""fp32 weight, gradient and Adam's two moments."""


def weighted_loss(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, batch: int, answers: int
) -> torch.Tensor:
    """The part of the loss (``train.self_filter``) that belongs to b of the examples of a batch.

    ``logits`` [b, T, V]; ``labels`` int64 [b, T], -100 on all tokens that are not part of an
    answer, not shifted; ``weights`` [b] are w. ``batch`` (B) and ``answers`` are the examples and
    answer tokens of the whole batch.
    """
    targets = labels[:, 1:]
    rows, places = torch.nonzero(targets != IGNORE, as_tuple=True)
    losses = torch.nn.functional.cross_entropy(
        logits[rows, places].float(), targets[rows, places], reduction="none"
    )
    return batch * (weights[rows] * losses).sum() / max(1, answers)


@dataclass
class Learner:
    """Model, score net and optimizer on one device, and the progress so far."""

    need: Difficulty
    network: Any
    net: torch.nn.Module
    optimizer: torch.optim.Optimizer
    pad_id: int
    progress: Progress
    clusters: np.ndarray | None = None
    """int64 [N], of CoIDO."""

    @property
    def device(self) -> torch.device:
        return next(self.net.parameters()).device

    def regularize(self, rows: Sequence[int]) -> Regularize | None:
        """What the loss of a batch of ``rows`` has beside Self-Filter's."""
        if not isinstance(self.net, JointScorer) or self.clusters is None:
            return None
        return self.net.regularize(torch.from_numpy(self.clusters[rows]).to(self.device))

    @property
    def parts(self) -> dict[str, torch.nn.Module]:
        return {"model": self.network, "net": self.net}


def learn(
    build: Build,
    need: Difficulty,
    model: ModelSource,
    dataset: Dataset,
    folders: list[Path],
    recipe: Recipe | None,
) -> dict[str, Any]:
    """Run stage 1 and write its artifact into ``build.dir``; returns facts for the manifest.

    ``folders``: artifacts of the signals.
    """
    with _one_thread():
        return _learn(build, need, model, dataset, folders, recipe)


def _learn(
    build: Build,
    need: Difficulty,
    model: ModelSource,
    dataset: Dataset,
    folders: list[Path],
    recipe: Recipe | None,
) -> dict[str, Any]:
    from coincide.models.load import load_processor

    folder = build.need(1).path / "model"
    processor = load_processor(folder)
    signals = [ShardedArray(path) for path in folders]
    joint = isinstance(need, JointDifficulty)
    if isinstance(need, JointDifficulty):
        features = scorer_inputs(need, signals, dataset.examples)
    else:
        features = np.concatenate([signal[:] for signal in signals], axis=1)
    usable = usable_rows(folders) & np.isfinite(features).all(axis=1)
    usable[rows_of(dataset.dropped)] = False
    scored = rows = np.flatnonzero(usable)
    width = sum(signal.shape[1] for signal in signals)
    if isinstance(need, JointDifficulty):
        scale(features[:, width:], scored)
        rows = part_of(scored, need)
    batches = [batch for epoch in range(need.epochs) for batch in epoch_batches(rows, need, epoch)]
    checkpointing = recipe is not None and recipe.gradient_checkpointing
    pad = processor.tokenizer.pad_token_id
    learner = _learner(folder, features, width, need, pad, checkpointing)
    if isinstance(need, JointDifficulty):
        learner.clusters = clusters_of(features[:, :width], rows, need)
    state = build.dir / STATE
    if state.is_file():
        learner.progress = load(state, learner.parts, learner.optimizer)
        print(f"{need.method}: resumed at batch {learner.progress.batches:,} of {len(batches):,}")

    def encoded(batch: np.ndarray) -> dict[int, Encoded]:
        return _encoded(batch, dataset, processor, model)

    save_every = recipe.save_every if recipe is not None else None
    size = sum(tensor.nbytes for tensor in learner.network.state_dict().values())
    build.expect(size * (4 if save_every else 1))  # the state: weights and two moments
    _all_batches(learner, batches, encoded, features, need.lr, state, save_every)
    processor.save_pretrained(build.dir / "model")
    facts = _write(build.dir, learner, features, scored if joint else None)
    state.unlink(missing_ok=True)
    return facts


def _learner(
    folder: Path, features: np.ndarray, width: int, need: Difficulty, pad_id: int,
    checkpointing: bool,
) -> Learner:  # fmt: skip
    from coincide.models.load import load_model

    device = device_of("auto")
    network = load_model(folder, torch.float32, device)
    network.requires_grad_(True)
    network.model.vision_tower.requires_grad_(False)
    _check_memory(network, device, need.method)
    if checkpointing:
        checkpoint_layers(network)
    net: torch.nn.Module
    if isinstance(need, JointDifficulty):
        net = JointScorer(width, features.shape[1] - width, need.width, need.seed).to(device)
    else:
        net = torch.nn.Linear(width, 1, bias=False, device=device)
        torch.nn.init.zeros_(net.weight)
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW([*trained, *net.parameters()], lr=need.lr, weight_decay=0.0)
    progress = Progress(np.zeros(len(features), dtype=bool), size=need.batch)
    return Learner(need, network, net, optimizer, pad_id, progress)


def _all_batches(
    learner: Learner,
    batches: Sequence[np.ndarray],
    encoded: Callable[[np.ndarray], dict[int, Encoded]],
    features: np.ndarray,
    lr: float,
    state: Path,
    save_every: int | None,
) -> None:
    """Train on all batches from ``learner.progress`` on.

    A checkpoint every ``save_every`` steps.
    """
    from coincide.terminal.progress import bar

    progress = learner.progress
    with bar(learner.need.method, total=len(batches), unit="step") as shown:
        shown.update(progress.batches)
        for batch in batches[progress.batches :]:
            examples = encoded(batch)
            progress.taught[list(examples)] = True
            if examples:
                f = torch.from_numpy(features[list(examples)]).to(learner.device)
                for group in learner.optimizer.param_groups:
                    group["lr"] = lr * rate(len(progress.log), len(batches))
                more = learner.regularize(list(examples))
                progress.log.append(fitting_step(learner, list(examples.values()), f, more))
            progress.batches += 1
            if save_every and progress.batches % save_every == 0:
                save(state, learner.parts, learner.optimizer, progress)
            shown.update(1)


def _write(
    folder: Path, learner: Learner, features: np.ndarray, scored: np.ndarray | None
) -> dict[str, Any]:
    """Write the artifact's files except the processor; returns facts for the manifest. Difficulties
    are those of the rows ``scored``, or of those that took part.
    """
    from safetensors.torch import save_file

    progress = learner.progress
    known = np.flatnonzero(progress.taught) if scored is None else scored
    difficulty = difficulties(learner.net, features, known)
    np.save(folder / "difficulty.npy", difficulty, allow_pickle=False)
    tensors = {name: t.detach().cpu() for name, t in learner.net.state_dict().items()}
    save_file(tensors, folder / "score_net.safetensors")
    learner.network.save_pretrained(folder / "model")
    write_json(folder / "log.json", progress.log)
    return {
        "rows": int(progress.taught.sum()),
        "steps": len(progress.log),
        "loss_first": progress.log[0]["loss"],
        "loss_last": progress.log[-1]["loss"],
        "difficulty": [float(q) for q in np.quantile(difficulty[known], [0, 0.25, 0.5, 0.75, 1])],
        "precision": "bf16" if _bf16(learner.device) else "fp32",
        "examples_at_once": progress.size,
    }


def fitting_step(
    learner: Learner,
    examples: Sequence[Encoded],
    features: torch.Tensor,
    regularize: Regularize | None = None,
) -> dict[str, float]:
    """One step on ``examples``, in as many parts as memory requires.

    May lower ``progress.size``.
    """
    progress = learner.progress
    while True:
        size = progress.size
        parts = [examples[at : at + size] for at in range(0, len(examples), size)]
        inputs = [collate(part, learner.pad_id) for part in parts]
        try:
            return step(
                learner.network, learner.net, inputs, features, learner.optimizer, regularize
            )
        except (RuntimeError, MemoryError) as error:
            if size == 1 or not is_out_of_memory(error):
                raise
        progress.size = -(-min(size, len(examples)) // 2)
        print(
            f"{learner.need.method}: out of memory with {size} examples at once; going on with "
            f"{progress.size}, the loss is still that of the whole batch",
            flush=True,
        )
        learner.optimizer.zero_grad(set_to_none=True)
        gc.collect()
        torch.cuda.empty_cache()


def step(
    network: Any,
    net: torch.nn.Module,
    parts: Sequence[dict[str, torch.Tensor]],
    features: torch.Tensor,
    optimizer: torch.optim.Optimizer,
    regularize: Regularize | None = None,
) -> dict[str, float]:
    """One optimizer step of model and score net; returns the figures for the log.

    ``features`` float32 [B, D]; ``parts`` are collated parts of the batch, B rows together;
    ``regularize`` is CoIDO's.
    Raises UserError when the loss is no finite number.
    """
    device = features.device
    optimizer.zero_grad(set_to_none=True)
    weights = torch.softmax(net(features)[:, 0], dim=0)
    more = regularize(weights) if regularize else None
    answers = sum(int((part["labels"][:, 1:] != IGNORE).sum()) for part in parts)
    total, done = 0.0, 0
    for part in parts:
        share = weights[done : done + len(part["labels"])]
        done += len(share)
        inputs = {name: value.to(device) for name, value in model_inputs(part).items()}
        labels = inputs.pop("labels")
        with _precision(device):
            output = network(**inputs, use_cache=False)
        loss = weighted_loss(output.logits, labels, share, len(features), answers)
        if more:
            loss = more[0] * loss + (more[1] if done == len(share) else 0)
        loss.backward(retain_graph=done < len(features))
        total += float(loss.detach())
    if not math.isfinite(total):
        raise UserError(f"stage 1: the loss is {total}. Lower method.lr.")
    optimizer.step()
    return {"loss": total, "largest_weight": float(weights.max().detach())}


def epoch_batches(rows: np.ndarray, need: Difficulty, epoch: int) -> list[np.ndarray]:
    """The batches of one epoch: ``rows`` shuffled by seed and epoch."""
    shuffled = np.random.default_rng((need.seed, epoch)).permutation(rows)
    return [shuffled[at : at + need.batch] for at in range(0, len(rows), need.batch)]


def difficulties(net: torch.nn.Module, features: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """d = -S(f): float32 [N], NaN for rows other than ``rows``."""
    found = np.full(len(features), np.nan, dtype=np.float32)
    if isinstance(net, JointScorer):
        found[rows] = -net.scores(features[rows])
        return found
    weight = net.get_parameter("weight").detach().cpu().numpy()[0].astype(np.float64)
    found[rows] = -(features[rows].astype(np.float64) * weight).sum(axis=1)
    return found


def _encoded(
    batch: np.ndarray, dataset: Dataset, processor: Any, model: ModelSource
) -> dict[int, Encoded]:
    """Row -> its encoding, for the rows of ``batch`` that have an answer token."""
    template = TEMPLATES[model.template]
    found = {
        int(row): encode(dataset.examples[row], dataset, processor, template, model.max_length)
        for row in batch
    }
    return {row: e for row, e in found.items() if (e.labels[1:] != IGNORE).any()}


def rate(at: int, steps: int) -> float:
    """Factor of the learning rate at step ``at`` of ``steps``: linear warm-up, then cosine to 0."""
    warmup = max(1, round(WARMUP * steps))
    if at < warmup:
        return (at + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (at - warmup) / max(1, steps - warmup)))


def _bf16(device: str | torch.device) -> bool:
    return torch.device(device).type == "cuda" and torch.cuda.is_bf16_supported()


def _precision(device: torch.device) -> AbstractContextManager[Any]:
    return torch.autocast("cuda", torch.bfloat16) if _bf16(device) else nullcontext()


def _check_memory(network: Any, device: str, method: str) -> None:
    """Raise UserError if the training state alone does not fit the GPU."""
    if device == "cpu":
        return
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    needed, there = BYTES_PER_PARAMETER * trained, torch.cuda.mem_get_info(device)[1]
    if needed > there:
        raise UserError(
            f"stage 1 of {method} trains all {trained / 1e9:.1f}e9 parameters in fp32: "
            f"{needed / 1e9:.0f} GB for weights, gradients and AdamW, and the GPU has "
            f"{there / 1e9:.0f} GB. Choose a smaller target for the selection, or a larger GPU."
        )


@contextmanager
def _one_thread() -> Iterator[None]:
    """One CPU thread in this context: the same sums in the same order on any machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
