"""The stages that run models, for ``bench.gpu``: feature pass, LoRA step, evaluation."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from bench import features as bench_features
from bench import made_models, train_step
from bench.evaluate import PLAIN_BATCH, TEMPLATE, WORKLOADS, Way, engine, questions
from bench.gpu_found import Found, Setting, fits, until_it_fits
from coincide.config import FeaturePass
from coincide.features.signals.activations import Activations
from coincide.models.tiny import make_processor
from coincide.store import Store
from eval import model as eval_model
from eval.decoding import Decoding
from train.recipe import Recipe

BATCH_TOKENS = 32_768
TINY_WORKLOADS = ("gqa",)
Prompts = Sequence[tuple[str, Any]]


def features(setting: Setting, found: Found) -> None:
    """Rows a second of COINCIDE's signal at TinyLLaVA-2B's shape, and the FLOP that ran for them,
    as torch counts them (padding included; what rows share and layers that no signal reads are not
    run). The values of a tiny model in float32 are compared with the CPU's.
    """
    here = RandomPass(setting.folder / "here", "tiny", "cpu", 24)
    there = RandomPass(setting.folder / "there", "tiny", setting.device, 24)
    values = [each.run(24)[1] for each in (here, there)]
    difference = float(np.abs(values[0] - values[1]).max())
    found.put(compared={"tiny model, 24 rows, largest difference of a value": difference})
    name, most, probe = ("tinyllava_2b", 2048, 48) if setting.full else ("tiny", 48, 16)
    measured = RandomPass(setting.folder / "measured", name, setting.device, probe)
    measured.run(probe)  # warm
    took, _ = measured.run(probe)
    rows = found.cut("rows", most, fits(took, probe, setting.seconds / 4))
    seconds, _ = measured.run(rows)
    dtype = made_models.SHAPES[name].dtype
    found.put(figures={"rows": rows, "dtype": dtype, "rows/s": rows / seconds})
    rate = measured.operations(rows) / seconds
    found.put(figures={"FLOP/s": rate, "model FLOP utilisation": setting.share_of_peak(rate)})


class RandomPass:
    """A random model of ``shape`` in a store under ``root``; each run computes its rows anew."""

    def __init__(self, root: Path, shape: str, device: str, rows: int) -> None:
        (root / "images").mkdir(parents=True)
        self.root, self.runs, self.drawn = root, 0, 0
        sizes = made_models.SHAPES[shape]
        source = made_models.Source(rows, root / "images", sizes)
        options = FeaturePass(device=device, decode_workers=0 if shape == "tiny" else "auto")
        model = made_models.Model(shape, sizes.max_length)
        self.over = bench_features.Timed(model, source, sizes.dtype, options, log=root)
        self.signal = Activations(sizes.layers)
        torch.manual_seed(0)
        Store(root / "store").ensure(model.step())

    def run(self, rows: int) -> tuple[float, np.ndarray]:
        """Seconds from the first shard on, and the values."""
        self.runs += 1
        source = replace(self.over.source, rows=rows)
        if rows != self.drawn:
            source.draw()
            self.drawn = rows
        other = self.root / str(self.runs)
        bench_features._share(self.root / "store", other, source)
        return bench_features.ours(replace(self.over, source=source), other, self.signal)

    def operations(self, rows: int) -> float:
        """FLOP of a run over the same rows."""
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            self.run(rows)
        return float(counter.get_total_flops())


def train(setting: Setting, found: Found) -> None:
    """One LoRA step of LLaVA-1.5-7B as ``bench.train_step`` has it; logits of a tiny model in
    float32 are compared with the CPU's."""
    torch.manual_seed(0)
    base = train_step.random_llava(train_step.SHAPES["tiny"], "cpu")
    batch = train_step.random_batch(base.config, 2, "cpu")
    del batch["labels"]
    with torch.inference_mode():
        here = base(**batch).logits
        other = copy.deepcopy(base).to(setting.device)
        there = other(**{k: v.to(setting.device) for k, v in batch.items()}).logits.cpu()
    relative = float(((here - there).abs().max() / here.std()).item())
    found.put(compared={"tiny model, largest difference of a logit, in their deviation": relative})
    recipe = Recipe(zero_stage=0)
    shape = train_step.SHAPES["7b" if setting.full else "tiny"]

    def steps(micro: int, count: int) -> train_step.Figures:
        return train_step.measure(replace(recipe, micro_batch=micro), shape, setting.device, count)

    def put(micro: int, figures: train_step.Figures) -> None:
        share = setting.share_of_peak(figures.flops_per_second)
        known = {k: v for k, v in asdict(figures).items() if k != "device"}
        found.put(figures={"micro-batch": micro, **known, "model FLOP utilisation": share})

    one = steps(1, 1)
    put(1, one)
    seven = 7 / one.examples_per_second  # two steps to warm up, five that are timed
    micro = found.cut("micro-batch", 16 if setting.full else 2, fits(seven, 1, setting.seconds / 2))

    def timed(size: int) -> None:
        put(size, steps(size, 5))

    until_it_fits(timed, micro, found, "micro-batch")


def evaluate(setting: Setting, found: Found) -> None:
    """Questions of every benchmark's sharing at LLaVA-1.5-7B's shape: the engine that shares
    prefixes beside (a) batches of one prompt and (b) plain batches; seconds a question, equal
    answers. A tiny model's answers in float32 are compared with the CPU's.
    """
    small = [wide("tiny", "cpu", "float32"), wide("tiny", "cpu", "float32").to(setting.device)]
    prompts, decoding = questions(WORKLOADS["gqa"], 0.1)[:12], Decoding(4, 1, ())
    told = [engine(answering(setting, n, m, 1, BATCH_TOKENS), prompts, decoding).answers
            for n, m in enumerate(small)]  # fmt: skip
    same = sum(x == y for x, y in zip(*told, strict=True))
    found.put(compared={"tiny model, float32, equal answers": f"{same} of {len(prompts)}"})
    dtype = "bfloat16" if setting.full else "float32"
    network = wide("7b" if setting.full else "tiny", setting.device, dtype)
    plain = answering(setting, 2, network, 1, None)
    names = list(WORKLOADS) if setting.full else TINY_WORKLOADS
    share = setting.seconds / 3 / len(names)
    loads = {name: cut_prompts(setting, found, plain, name, share) for name in names}
    ways: dict[str, dict[str, Way]] = {}
    for way, batch, tokens in (("(a)", 1, None), ("(b)", PLAIN_BATCH, None),
                               ("engine", 1, BATCH_TOKENS)):  # fmt: skip
        # the engine last: it changes how the network attends
        model = answering(setting, 2, network, batch, tokens)
        ways[way] = {}
        for name, asking in loads.items():
            answers = Decoding(WORKLOADS[name].answer, 1, ())
            engine(model, asking[:2], answers)  # warm
            ways[way][name] = engine(model, asking, answers)
            found.put(figures=row(name, way, ways, len(asking)))
    found.put(figures={"dtype": dtype, **mix(ways, loads)})


def wide(shape: str, device: str, dtype: str) -> Any:
    """LLaVA-1.5 of that shape with random weights, made on the device, that answers words of the
    small tokenizer alone: of other tokens no text could be compared."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaForConditionalGeneration

    from coincide.models.assemble import make_config

    sizes, tokenizer = train_step.SHAPES[shape], make_processor().tokenizer
    text = LlamaConfig(**sizes["text"], max_position_embeddings=4096)
    tower = CLIPVisionConfig(**sizes["vision"])
    config = make_config(tokenizer, text, tower, layer=-2, cls_token=True)
    config.text_config.vocab_size = max(text.vocab_size, sizes["text"]["vocab_size"])
    torch.manual_seed(0)
    with torch.device(device):
        model = LlavaForConditionalGeneration._from_config(
            config, dtype=getattr(torch, dtype), attn_implementation="sdpa"
        )
    with torch.no_grad():
        model.lm_head.weight[len(tokenizer) :] = 0
    return model.eval()


def answering(
    setting: Setting, number: int, network: Any, batch: int, tokens: int | None
) -> eval_model.LmmsEvalModel:
    """``network`` as an evaluation has it; no weight passes the disk."""
    from types import SimpleNamespace

    from coincide.models.assemble import make_processor as processor_of

    folder = setting.folder / f"processor{number}"
    half = SimpleNamespace(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    tower, tokenizer = network.config.vision_config, make_processor().tokenizer
    processor_of(tokenizer, half, tower, cls_token=True).save_pretrained(folder)
    network.config.save_pretrained(folder)
    with patch.object(eval_model, "load_model", lambda *_: network):
        return eval_model.LmmsEvalModel(
            folder, None, template=TEMPLATE, batch_size=batch, batch_tokens=tokens,
            dtype=str(network.dtype).removeprefix("torch."), device=str(network.device),
        )  # fmt: skip


def cut_prompts(setting: Setting, found: Found, model: Any, name: str, seconds: float) -> Prompts:
    """As many of the bench's questions of a benchmark as batches of one answer in ``seconds``."""
    prompts = questions(WORKLOADS[name], 1.0 if setting.full else 0.2)
    decoding = Decoding(WORKLOADS[name].answer, 1, ())
    engine(model, prompts[:2], decoding)  # warm
    took = engine(model, prompts[:2], decoding).seconds
    return prompts[: found.cut(f"{name}, questions", len(prompts), fits(took, 2, seconds))]


def row(name: str, way: str, ways: dict[str, dict[str, Way]], questions: int) -> dict[str, Any]:
    """Figures of a benchmark answered in one way."""
    mine, first = ways[way][name], ways["(a)"][name]
    figures: dict[str, Any] = {
        f"{name}, questions": questions,
        f"{name}, {way}, ms a question": 1000 * mine.seconds / questions,
    }
    if way != "(a)":
        same = sum(x == y for x, y in zip(mine.answers, first.answers, strict=True))
        figures[f"{name}, {way}, equal to (a)"] = f"{same} of {questions}"
        figures[f"{name}, (a) / {way}"] = first.seconds / mine.seconds
    return figures


def mix(ways: dict[str, dict[str, Way]], loads: dict[str, Prompts]) -> dict[str, float]:
    """All benchmarks, each with its number of documents."""
    total = {
        way: sum(WORKLOADS[n].documents * w.seconds / len(loads[n]) for n, w in found.items())
        for way, found in ways.items()
    }
    return {f"mix, {way} / engine": total[way] / total["engine"] for way in ("(a)", "(b)")}
