"""Engines that ``bench.gradients`` compares: rows' gradients by LoRA parameters.

``released``: the recipe of LESS and ICONS: one row at a time, backward, the flat gradient, and for
16 rows together a dense matrix of signs, 128 columns of it at a time, as their projector does
without its CUDA kernel. ``bergson`` (extra ``bench``) sees no pictures: its own loop is measured on
rows without; where rows show pictures, its hooks are put around a forward pass of ours."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from bench.gradient_rows import Material
from coincide.config import FeaturePass
from coincide.features.forward.adapted import AdaptedModel
from coincide.features.forward.gradients import (
    CPU_TOKENS,
    GradientReading,
    GradientRun,
    answer_losses,
)
from coincide.models.encode import Encoded, collate, model_inputs
from coincide.models.head import own_logits
from coincide.models.load import load_model

NUMBERS = 8192
BUFFER, COLUMNS = 16, 128
"""Rows that the released code projects together, and columns of the matrix that it holds."""
EXACT = "exact, one row at a time"
OWN, AGAIN = "own, `hashed` 8,192", "own, `hashed` 8,192, blocks run again"
RELEASED = "released way: one row at a time, dense matrix"


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


def _dense(flat: torch.Tensor) -> torch.Tensor:
    """[b, NUMBERS]: times a matrix of signs, made anew in blocks."""
    generator = torch.Generator().manual_seed(0)
    block = torch.empty(flat.shape[1], COLUMNS)
    parts = []
    for _ in range(0, NUMBERS, COLUMNS):
        parts.append(flat @ block.bernoulli_(0.5, generator=generator).mul_(2).sub_(1))
    return torch.cat(parts, dim=1) / NUMBERS**0.5


def own(
    material: Material, projection: Any, dimension: int, *, recompute: bool = False
) -> Callable[[], Found]:
    """This project's engine; with ``recompute`` every block runs again in backward."""
    network = load_model(material.base, torch.float32, "cpu")
    model = AdaptedModel(network, [material.adapter])
    unit = GradientReading(0, "sgd", "mean", projection, dimension)
    length = GradientReading(0, "sgd", "mean", None)
    work = GradientRun(model, [material.adapter], [unit, length], 0, FeaturePass())
    if recompute:
        work.recompute()

    def run() -> Found:
        values = np.empty((len(material.rows), work.widths[0]), np.float16)
        lengths = np.empty(len(material.rows), np.float32)
        for batch in batches(material.rows, CPU_TOKENS):
            found = work.read_at([unit, length], [material.rows[i] for i in batch], None)
            values[batch], lengths[batch] = found[unit], found[length][:, 0]
        return Found(values, lengths)

    return run


def bergson_loop(material: Material, dimension: int) -> Callable[[], Found]:
    """Its ``collect_gradients`` with its own batches: rows without pictures."""
    from bergson.collection import collect_gradients
    from bergson.config.config import IndexConfig
    from bergson.data import allocate_batches, load_gradients
    from bergson.gradients import GradientProcessor
    from datasets import Dataset

    model, linears = _hooked(material)
    columns = {"input_ids": [row.input_ids.tolist() for row in material.rows],
               "labels": [row.labels.tolist() for row in material.rows]}  # fmt: skip
    rows, lengths = Dataset.from_dict(columns), [len(row.input_ids) for row in material.rows]
    processor = GradientProcessor(projection_dim=dimension, projection_seed=0)

    def run() -> Found:
        config = IndexConfig(run_path=tempfile.mkdtemp(), loss_reduction="mean")
        with contextlib.redirect_stderr(io.StringIO()):
            collect_gradients(
                model, rows, processor, config, target_modules=linears,
                batches=allocate_batches(lengths, config.token_batch_size),
            )  # fmt: skip
        return Found(np.array(load_gradients(config.partial_run_path)))

    return run


def bergson_hooks(material: Material, dimension: int, size: int = 8) -> Callable[[], Found]:
    """Its collector of gradients around a forward pass of ours, ``size`` rows a batch."""
    from bergson.collector.in_memory_collector import InMemoryCollector
    from bergson.config.config import IndexConfig
    from bergson.gradients import GradientProcessor
    from datasets import Dataset

    model, linears = _hooked(material)
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
                states = model.base_model.model.base_model(
                    **{k: v for k, v in model_inputs(inputs).items() if k != "labels"},
                    use_cache=False,
                ).last_hidden_state
                losses = answer_losses(states, inputs["labels"], own_logits(model.base_model.model))
                losses.sum().backward()
                model.get_input_embeddings().weight.grad = None
            collector.process_batch(batch, losses=losses)
        collector.teardown()
        return Found(np.concatenate([g.float().numpy() for g in collector.gradients.values()], 1))

    return run


def _hooked(material: Material) -> tuple[Any, set[str]]:
    """The model as bergson's own loader prepares it, and the names of the adapter's linears."""
    logging.disable(logging.INFO)  # it names every module
    model = _peft(material)
    ends = (".lora_A.default", ".lora_B.default")
    linears = {name for name, _ in model.base_model.named_modules() if name.endswith(ends)}
    model.requires_grad_(False)
    model.get_input_embeddings().weight.requires_grad_(True)
    return model, linears


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


def engines(material: Material) -> dict[str, Engine]:
    """Name -> engine; the first gives the exact gradients."""
    found: dict[str, Engine] = {
        EXACT: lambda m: released(m, project=False),
        RELEASED: released,
        OWN: lambda m: own(m, "hashed", NUMBERS),
        AGAIN: lambda m: own(m, "hashed", NUMBERS, recompute=True),
        "own, `hashed` 2,048": lambda m: own(m, "hashed", 2048),
        "own, `per_module` k = 16": lambda m: own(m, "per_module", 16),
        "own, `per_module` k = 32": lambda m: own(m, "per_module", 32),
    }
    if find_spec("bergson"):
        if not any(row.sees for row in material.rows):
            found["bergson, its own loop, 16 x 16"] = lambda m: bergson_loop(m, 16)
        found["bergson's hooks in our forward, 16 x 16"] = lambda m: bergson_hooks(m, 16)
        found["bergson's hooks in our forward, 10 x 10"] = lambda m: bergson_hooks(m, 10)
    return found
