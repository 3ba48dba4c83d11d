"""``python -m bench.gradients``: gradients of rows by LoRA parameters, this engine and others.

    python -m bench.gradients                # the demo's LLaVA with a trained adapter, its own rows
    python -m bench.gradients --model wide   # a decoder of width 512, rows of 120 to 256 tokens

One run measures speed (engines in turns, the best of some repeats), peak memory above the model
(each engine in a process of its own), and what is left of the exact gradients: the rank correlation
of influences of rows on target rows, and how many of the rows that ICONS and LESS would choose are
those of the exact gradients.

``released``: the recipe of LESS and ICONS: one row at a time, backward, the flat gradient, and for
16 rows together a dense matrix of signs, made anew in blocks. ``bergson`` (extra ``bench``) is
measured where it is there: its hooks around a forward pass of ours, since its own loop reads no
pictures."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from baselines.icons import count_votes
from coincide.config import FeaturePass
from coincide.features.forward.adapted import AdaptedModel
from coincide.features.forward.gradients import (
    CPU_TOKENS,
    GradientReading,
    GradientRun,
    answer_losses,
)
from coincide.models.encode import IGNORE, Encoded, collate, encode, model_inputs
from coincide.models.head import own_logits
from coincide.models.load import load_model, load_processor
from coincide.models.template import TEMPLATES
from coincide.store import Store
from train.lora import add_lora, save_adapter, trainable_state
from train.moments import moments_of
from train.recipe import Recipe

NUMBERS = 8192
BUFFER = 16
"""Rows that the released code projects together."""
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


# --- what is measured on ----------------------------------------------------------------------


def tiny(root: Path, count: int) -> Material:
    """The demo's target, finetuned on some of its rows, and rows that it has not seen."""
    from coincide.data.demo import Demo
    from coincide.models.tiny import Tiny

    store = Store(root / "store")
    model, source = Tiny("tiny", "tiny", "tiny", 512), Demo(n=3 * count, items=1)
    for step in (model.step(), source.step()):
        store.ensure(step)
    base = store.artifact(model.step()).path / "model"
    data = source.open(store.artifact(source.step()).path)
    processor = load_processor(base)
    encoded = [encode(e, data, processor, TEMPLATES["tiny"], 512) for e in data.examples]
    names = sorted({e.source for e in data.examples})
    tasks = np.array([names.index(e.source) for e in data.examples])
    adapter = _finetuned(base, encoded[count:], root, steps=60, pad=_pad(processor))
    return Material(base, adapter, encoded[:count], tasks[:count], count // 4)


def wide(root: Path, count: int) -> Material:
    """A decoder of width 512 with random weights, and rows of random words."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig
    from transformers import LlavaForConditionalGeneration as Llava

    from coincide.models.tiny import make_processor

    torch.manual_seed(0)
    vision = CLIPVisionConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                              num_attention_heads=2, image_size=48, patch_size=12)  # fmt: skip
    text = LlamaConfig(vocab_size=2048, hidden_size=512, intermediate_size=1376,
                       num_hidden_layers=6, num_attention_heads=8)  # fmt: skip
    base = root / "wide"
    Llava(LlavaConfig(vision, text, image_token_index=2047)).save_pretrained(base)
    make_processor("tiny").save_pretrained(base)
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


def _pad(processor: Any) -> int:
    return int(processor.tokenizer.pad_token_id)


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


# --- engines: each gives float32 [n, D] and, where sketches are of unit length, lengths [n] -----


@dataclass(frozen=True)
class Found:
    """What an engine gives, by row."""

    values: np.ndarray
    lengths: np.ndarray | None = None
    """Of the gradients, where ``values`` have unit length."""


Engine = Callable[[Material], Callable[[], Found]]
"""Loads the model; what it returns is timed."""


def released(material: Material, *, project: bool = True) -> Callable[[], Found]:
    """One row at a time; flat gradients, and a dense projection of 16 at a time."""
    model = _peft(material)
    weights = [p for n, p in model.named_parameters() if "lora_" in n]
    for name, weight in model.named_parameters():
        weight.requires_grad_("lora_" in name)

    def run() -> Found:
        found: list[torch.Tensor] = []
        held: list[torch.Tensor] = []
        for number, row in enumerate(material.rows):
            for weight in weights:
                weight.grad = None
            model(**model_inputs(collate([row], 0))).loss.backward()
            held.append(torch.cat([w.grad.flatten() for w in weights if w.grad is not None]))
            if project and (len(held) == BUFFER or number + 1 == len(material.rows)):
                found.append(_dense(torch.stack(held)))
                held = []
        return Found(torch.cat(found).numpy() if project else torch.stack(held).numpy())

    return run


def _dense(flat: torch.Tensor, columns: int = 64) -> torch.Tensor:
    """[b, NUMBERS]: times a matrix of signs, ``columns`` of it at a time, as TRAK's fallback."""
    generator = torch.Generator().manual_seed(0)
    parts = []
    for _ in range(0, NUMBERS, columns):
        block = torch.empty(flat.shape[1], columns).bernoulli_(0.5, generator=generator)
        parts.append(flat @ block.mul_(2).sub_(1))
    return torch.cat(parts, dim=1) / NUMBERS**0.5


def own(material: Material, projection: Any, dimension: int) -> Callable[[], Found]:
    """This project's engine."""
    network = load_model(material.base, torch.float32, "cpu")
    model = AdaptedModel(network, [material.adapter])
    unit = GradientReading(0, "sgd", "mean", projection, dimension)
    length = GradientReading(0, "sgd", "mean", None)
    work = GradientRun(model, [material.adapter], [unit, length], 0, FeaturePass())

    def run() -> Found:
        values = np.empty((len(material.rows), work.widths[0]), np.float16)
        lengths = np.empty(len(material.rows), np.float32)
        for batch in batches(material.rows, CPU_TOKENS):
            found = work.read_at([unit, length], [material.rows[i] for i in batch], None)
            values[batch], lengths[batch] = found[unit], found[length][:, 0]
        return Found(values, lengths)

    return run


def bergson(material: Material, dimension: int, size: int = 8) -> Callable[[], Found]:
    """Its collector of gradients around a forward pass of ours, ``size`` rows a batch."""
    from bergson.collector.in_memory_collector import InMemoryCollector
    from bergson.config.config import IndexConfig
    from bergson.gradients import GradientProcessor
    from datasets import Dataset

    model = _peft(material)
    linears = {name for name, _ in model.base_model.named_modules()
               if name.endswith((".lora_A.default", ".lora_B.default"))}  # fmt: skip
    model.requires_grad_(False)
    model.get_input_embeddings().weight.requires_grad_(True)  # as its own loader does
    rows = Dataset.from_dict({"input_ids": [row.input_ids.tolist() for row in material.rows]})
    folder = tempfile.mkdtemp()

    def run() -> Found:
        collector = InMemoryCollector(
            model=model.base_model,
            data=rows,
            cfg=IndexConfig(run_path=folder),
            target_modules=linears,
            processor=GradientProcessor(projection_dim=dimension, projection_seed=0),
        )
        for batch in batches(material.rows, sys.maxsize, size):
            inputs = collate([material.rows[i] for i in batch], 0)
            with collector.with_batch(inputs["attention_mask"].bool()):
                labels = inputs["labels"]
                states = model.base_model.model.base_model(
                    **{k: v for k, v in model_inputs(inputs).items() if k != "labels"},
                    use_cache=False,
                ).last_hidden_state
                losses = answer_losses(states, labels, own_logits(model.base_model.model))
                losses.sum().backward()
                model.get_input_embeddings().weight.grad = None
            collector.process_batch(batch, losses=losses)
        collector.teardown()
        return Found(np.concatenate([g.float().numpy() for g in collector.gradients.values()], 1))

    return run


def _peft(material: Material) -> Any:
    from peft import PeftModel

    network = load_model(material.base, torch.float32, "cpu")
    return PeftModel.from_pretrained(network, material.adapter, is_trainable=True).eval()


def batches(rows: Sequence[Encoded], tokens: int, size: int = 64) -> Iterator[list[int]]:
    """Places of ``rows``, the longest first, at most ``size`` and ``tokens`` with padding."""
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i].input_ids))
    while order:
        fit = max(1, min(size, tokens // len(rows[order[0]].input_ids)))
        yield order[:fit]
        order = order[fit:]


# --- measures -----------------------------------------------------------------------------------


def peak(engine: Engine, material: Material) -> float:
    """MiB above the loaded model, in a process of its own."""
    there, here = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(
        target=_measured, args=(engine, material, here)
    )
    child.start()
    found: float = there.recv()
    child.join()
    return found


def _measured(engine: Engine, material: Material, tell: Any) -> None:
    torch.set_num_threads(1)
    run = engine(material)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is the present from here on
    before = _status("VmRSS")
    run()
    tell.send((_status("VmHWM") - before) / 1024)


def _status(field: str) -> int:
    """A size of this process in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    [line] = [line for line in lines if line.startswith(f"{field}:")]
    return int(line.split()[1])


def fidelity(found: Found, exact: Found, material: Material) -> dict[str, float]:
    """Rank correlation with the exact influences, as products and as cosines, and the share of
    the rows that ICONS and LESS would choose at 20 % which the exact gradients choose too.
    """
    one, other = (_influences(each, material.targets) for each in (found, exact))
    result = {
        name: float(spearmanr(one[name].flatten(), other[name].flatten()).statistic)
        for name in ("product", "cosine")
    }
    tasks = material.tasks[-material.targets :]
    chosen = [_chosen(each["cosine"], tasks) for each in (one, other)]
    for name in ("icons", "less"):
        mine, theirs = (set(each[name].tolist()) for each in chosen)
        result[name] = len(mine & theirs) / len(theirs)
    return result


def _influences(found: Found, targets: int) -> dict[str, np.ndarray]:
    x = found.values.astype(np.float64)
    norm = np.linalg.norm(x, axis=1)
    lengths = norm if found.lengths is None else found.lengths.astype(np.float64)
    unit = x / norm[:, None]
    cosine = unit[:-targets] @ unit[-targets:].T
    return {
        "cosine": cosine,
        "product": cosine * lengths[:-targets, None] * lengths[None, -targets:],
    }


def _chosen(cosine: np.ndarray, tasks: np.ndarray) -> Mapping[str, np.ndarray]:
    by_task = np.stack([cosine[:, tasks == t].mean(axis=1) for t in np.unique(tasks)], axis=1)
    votes, ranks = count_votes(by_task, 0.2)
    k = round(0.2 * len(cosine))
    return {
        "icons": np.lexsort((-ranks, -votes))[:k],
        "less": np.argsort(-by_task.max(axis=1), kind="stable")[:k],
    }


def engines() -> dict[str, Engine]:
    """Name -> engine; the first gives the exact gradients."""
    found: dict[str, Engine] = {
        "exact, one row at a time": lambda m: released(m, project=False),
        "released: flat, dense": released,
        "own: hashed": lambda m: own(m, "hashed", NUMBERS),
        "own: per_module, k = 16": lambda m: own(m, "per_module", 16),
        "own: per_module, k = 32": lambda m: own(m, "per_module", 32),
    }
    if find_spec("bergson"):
        found |= {
            "bergson: per module, 16 x 16": lambda m: bergson(m, 16),
            "bergson: per module, 10 x 10": lambda m: bergson(m, 10),
        }
    return found


def main(words: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Print the table; its lines."""
    parser = argparse.ArgumentParser(prog="python -m bench.gradients", description=__doc__)
    parser.add_argument("--model", choices=("tiny", "wide"), default="tiny")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="engines whose names hold one of these")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        material = {"tiny": tiny, "wide": wide}[options.model](Path(folder), options.rows)
        asked = {
            name: engine
            for name, engine in engines().items()
            if not options.only or any(part in name for part in ("exact", *options.only))
        }
        lines = measured(material, asked, options.repeats)
    for line in lines:
        print(json.dumps(line), flush=True)
    return lines


def measured(material: Material, asked: Mapping[str, Engine], repeats: int) -> list[dict[str, Any]]:
    """A line for each engine."""
    memory = {name: peak(engine, material) for name, engine in asked.items()}
    runs = {name: engine(material) for name, engine in asked.items()}
    best: dict[str, float] = {}
    found: dict[str, Found] = {}
    for turn in range(repeats):
        for name, run in runs.items():
            if turn and name.startswith("released"):
                continue  # minutes; one repeat tells enough
            began = time.perf_counter()
            found[name] = run()
            best[name] = min(best.get(name, np.inf), time.perf_counter() - began)
    exact = found[next(iter(asked))]
    count = len(material.rows)
    return [
        {
            "engine": name,
            "numbers": int(found[name].values.shape[1]),
            "rows_per_second": round(count / best[name], 2),
            "mib": round(memory[name], 1),
            **{k: round(v, 4) for k, v in fidelity(found[name], exact, material).items()},
        }
        for name in asked
    ]


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
