"""A warm-up of the tiny LLaVA that nothing was trained in, and its gradients by plain autograd."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file

from coincide.config import FeaturePass
from coincide.features.extract import extract, signal_step
from coincide.features.forward import gradients
from coincide.features.forward.capture import forward_inputs
from coincide.features.forward.gradients import GradientRun
from coincide.features.passes.adapted import AdaptedPass
from coincide.features.signals.gradients import Gradients
from coincide.ledger.files import write_result
from coincide.ledger.result import Score
from coincide.models.decoder import last_states
from coincide.models.encode import Encoded, encode
from coincide.models.head import own_logits
from coincide.models.load import load_model, load_processor
from coincide.models.template import TEMPLATES
from coincide.models.tuned import MOMENTS, PREFIX
from coincide.ops import sketch
from coincide.ops.sketch import MatrixShape
from coincide.schema import Signal, SubsetOf, WarmUp
from coincide.store import Artifact, Build, Step, Store
from coincide.system.files import write_json
from tests.features.conftest import Model, Source, rows
from tests.report.fixture import result
from tests.train.tiny import TINY
from train.lora import add_lora, save_adapter, trainable_state
from train.moments import in_file
from train.recipe import Recipe

WARM = WarmUp(SubsetOf(None), (0.1, 0.2))


@dataclass(frozen=True)
class Target:
    """The tiny LLaVA as the target of a pass."""

    name: str = "tiny_llava"
    template: str = "vicuna_v1"
    max_length: int = 256
    dtype: str = "float64"


def adapted(folder: Path, seed: int) -> Any:
    """The model in ``folder`` with LoRA whose B is not zero, and a projector of its own."""
    network = load_model(folder, torch.float64, "cpu")
    torch.manual_seed(seed)
    found = add_lora(network, Recipe(**TINY), base="base", keep_dtype=False)
    for weight in found.parameters():
        if weight.requires_grad:
            weight.data += 0.1 * torch.randn(weight.shape)
            weight.data = weight.data.to(torch.float32).double()
    return found.eval()


def warmup_step(model: Model) -> Step:
    """A step like that of a warm-up, its two adapters and their moments drawn at random."""

    def build(build: Build) -> None:
        for number in range(2):
            found = adapted(build.need(0).path / "model", number)
            folder = build.dir / "model" / f"at-{number:02d}"
            folder.mkdir(parents=True)
            state = {name: tensor.float() for name, tensor in trainable_state(found).items()}
            save_adapter(found, state, folder)
            moments = {}
            for name, tensor in state.items():
                moments[f"{in_file(name)}.exp_avg"] = 0.01 * torch.randn(tensor.shape)
                moments[f"{in_file(name)}.exp_avg_sq"] = 1e-4 * torch.rand(tensor.shape)
            save_file(moments, folder / MOMENTS)

    return Step("warmup", "random", 1, {}, build, needs=(model.step(),))


def run(
    root: Path,
    source: Source,
    model: Model,
    signals: tuple[Signal, ...],
    *,
    dtype: str = "float64",
    **options: Any,
) -> list[Artifact]:
    """The signals of the pool by the warm-up, in a store of their own."""
    of = type(signals[0]).make_pass(Target(dtype=dtype), source, FeaturePass(**options))
    found = cast("AdaptedPass", of)
    steps = {s: signal_step(s, found, data=source.step(), base=warmup_step(model)) for s in signals}
    store = Store(root)
    for need in (source.step(), model.step(), warmup_step(model)):
        store.ensure(need)
    return extract(store, steps, found)


def plain(
    folder: Path, source: Source, number: int
) -> dict[int, tuple[dict[str, torch.Tensor], int]]:
    """Row -> matrix -> gradient of the mean answer loss, one row at a time, by PEFT and autograd;
    and the number of answer tokens.
    """
    network, processor = adapted(folder, number), load_processor(folder)
    dataset, found = source.open(Path()), {}
    for example in rows():
        e = encode(example, dataset, processor, TEMPLATES["vicuna_v1"], 256)
        if not (e.labels != -100).any() or not e.text_mask.any():
            continue
        pixels: Mapping[str, Any] = {} if e.pixel_values is None else {
            "pixel_values": e.pixel_values.double()}  # fmt: skip
        loss = network(input_ids=e.input_ids[None], labels=e.labels[None], **pixels).loss
        network.zero_grad()
        loss.backward()
        parts = {
            in_file(name).removeprefix("base_model.model.").removesuffix(".weight"): (
                p.grad.clone() if "lora_A" in name else p.grad.T.clone()
            )
            for name, p in network.named_parameters()
            if "lora_" in name
        }
        found[example.row] = (parts, int((e.labels[1:] != -100).sum()))
    return found


def of_a_run(root: Path, source: Source, model: Model) -> Path:
    """A result in a ledger, whose subset is 16 rows of the pool, asked row 10 and a text."""
    store, chosen = Store(root), [r for r in range(24) if r % 3 != 2]
    shown = (source.images / "3.png").read_bytes()

    def benchmark(build: Build) -> None:
        picture = {"bytes": shown, "path": ""}
        pd.DataFrame(
            {"question_id": ["a", "c"], "image_1": [picture] * 2, "image_2": [None, picture]}
        ).to_parquet(build.dir / "test.parquet")

    def subset(build: Build) -> None:
        np.save(build.dir / "rows.npy", chosen)
        said = {"human": "human", "gpt": "gpt"}
        records = [
            {"id": e.id, "image": list(e.images) or None, "source": e.source,
             "conversations": [{"from": said[t.role], "value": t.text} for t in e.turns]}
            for e in rows() if e.row in chosen
        ]  # fmt: skip
        write_json(build.dir / "subset.json", records)

    def evaluation(build: Build) -> None:
        row = rows()[10]
        asked = [
            {"doc_id": 4, "question_id": "a", "question": row.turns[0].text[8:], "unit": "x",
             "target": row.turns[1].text, "answer": "no", "score": 0.0},
            {"doc_id": 5, "question_id": "b", "question": "?", "unit": "y", "target": "no",
             "answer": "no", "score": 1.0},
            {"doc_id": 6, "question_id": "c", "question": "<image 1> or <image 2>?", "unit": "z",
             "target": "no", "answer": "no", "score": 0.0},
        ]  # fmt: skip
        text = "".join(json.dumps(each) + "\n" for each in asked)
        (build.dir / "samples.jsonl").write_text(text)

    bench = Step("data", "bench", 1, {"of": "odd"}, benchmark)
    store.ensure(bench)
    config = {"benchmark": "odd", "data": {"test": "test.parquet"}}
    made = [
        store.ensure(Step("subset", "few", 1, {}, subset, needs=(source.step(),))),
        store.ensure(Step("eval", "odd", 1, config, evaluation, needs=(bench,))),
    ]
    names = [f"{a.path.parent.name}/{a.path.name}" for a in made]
    found = result(
        "icons", 0, (), k=len(chosen), keys={"subset": names[0], "eval.odd": names[1]},
        scores=(Score("odd", "exact_match", 0.5, 2, 3.0, "p", "", names[1]),),
        contents={"data": source.step().key[:12], "target": model.step().key[:12]},
        config={"target": {"template": "vicuna_v1"}, "data": {"images": str(source.images)}},
    )  # fmt: skip
    return write_result(root / "ledger", found)


def text_row(length: int) -> Encoded:
    """A row without a picture, the last three tokens its answer."""
    ids = torch.arange(5, 5 + length)
    labels = torch.where(torch.arange(length) < length - 3, -100, ids)
    seen = torch.ones(length, dtype=torch.bool)
    return Encoded(ids, labels, ~seen, seen, None)


def sketched(
    signal: Gradients, matrices: list[MatrixShape], whole: dict[str, torch.Tensor]
) -> np.ndarray:
    """The sketch, of unit length, of a row's whole gradient."""
    like = torch.zeros(1, dtype=torch.float64)
    found = sketch.start(signal.projection, signal.dimension, 0, 1, like)
    for matrix in matrices:
        found.add(matrix, whole[matrix.name][None])
    vector = found.result()[0].numpy()
    return vector / np.linalg.norm(vector)


def adam_of(name: str, g: torch.Tensor, moments: dict[str, torch.Tensor]) -> torch.Tensor:
    """Adam's step from the gradient ``g`` of a parameter."""
    m, v = (moments[f"{PREFIX}{name}.weight.{each}"].double() for each in ("exp_avg", "exp_avg_sq"))
    m, v = (m.T, v.T) if name.endswith("lora_B") else (m, v)
    return (0.9 * m + 0.1 * g) / torch.sqrt(0.999 * v + 0.001 * g**2 + 1e-8)


def loss_of(work: GradientRun, row: Encoded) -> float:
    """The loss of the answer of ``row``."""
    network, batch = work.model.network, work._on_device([row])
    states, _ = last_states(network, forward_inputs(network, batch), use_cache=False)
    return float(gradients.answer_losses(states, batch["labels"], own_logits(network)))
