"""Print what the feature pass does in a second, over a plain Transformers loop with batch 8.

    python -m bench.features                                  # tiny shapes, a minute on a CPU
    python -m bench.features --shape tinyllava_2b --rows 2000 # TinyLLaVA-2.0B's shapes, on a GPU
    python -m bench.features --shape tinyllava_2b --processes auto   # all GPUs

Random weights of the real shapes, pictures and conversations made here: lengths are log-normal, as
those of LLaVA-665K, one row in sixteen has no image, and some images are shown by several rows.
Both read the same signal, COINCIDE's attention outputs pooled by modality, in the same precision
on the same device, model loaded and warm; their values are compared. With several processes the
time includes starting them. Where the time goes is measured in a pass of one process that reads its
images itself.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from bench.made_models import SHAPES, TEMPLATE, Model, Source
from coincide.config import FeaturePass
from coincide.features.engine import work
from coincide.features.engine.devices import decoders_of, device_of
from coincide.features.engine.shards import ShardedArray
from coincide.features.extract import extract, signal_step
from coincide.features.forward import capture, encoder
from coincide.features.forward import rows as reference
from coincide.features.forward.capture import attention_of, decoder_layers
from coincide.features.forward.packed import Packed
from coincide.features.passes.reference import ReferencePass
from coincide.features.signals.activations import Activations
from coincide.models import encode
from coincide.models.load import load_model, load_processor
from coincide.models.template import TEMPLATES, prompt
from coincide.schema import Example, Signal
from coincide.store import Store
from coincide.store.provenance import environment

PLAIN_BATCH = 8


@dataclass(frozen=True)
class Timed(ReferencePass):
    """The pass, noting in ``log`` when its model was loaded and its first shard began."""

    log: Path = Path()

    @contextmanager
    def computer(self, *arguments: Any) -> Iterator[Any]:
        """As the pass has it."""
        with super().computer(*arguments) as compute:
            (self.log / "loaded").write_text(str(time.time()), encoding="utf-8")
            yield compute


def ours(over: Timed, root: Path, signal: Signal) -> tuple[float, np.ndarray]:
    """Seconds of the pass from the first shard on (with several processes: of all), its values."""
    store = Store(root)
    data, base = over.source.step(), over.model.step()
    step = signal_step(signal, over, data=data, base=base)
    started = time.time()
    (artifact,) = extract(store, {signal: step}, over)
    ended = time.time()
    if over.options.processes == 1:
        started = float((over.log / "loaded").read_text(encoding="utf-8"))
    return ended - started, ShardedArray(artifact.path)[:].astype(np.float32)


def plain(
    over: Timed, folder: Path, signal: Signal, device: str, tokens: Counter[str]
) -> tuple[float, np.ndarray]:
    """The loop that one would write: batches of 8 in the order of the rows, whole model, hooks."""
    processor = load_processor(folder)
    model = load_model(folder, getattr(torch, over.dtype), device)
    layers = signal.layers
    outputs: dict[int, torch.Tensor] = {}
    for layer in layers:
        attention_of(decoder_layers(model), layer).register_forward_hook(
            lambda module, given, output, layer=layer: outputs.update({layer: output[0]})
        )
    examples = over.source.open(Path()).examples
    rows = [examples[i : i + PLAIN_BATCH] for i in range(0, len(examples), PLAIN_BATCH)]
    _plain_batch(rows[0], over.source, processor, model, outputs, layers)
    started = time.time()
    with counting(tokens, model):
        parts = [_plain_batch(b, over.source, processor, model, outputs, layers) for b in rows]
    return time.time() - started, np.concatenate(parts)


@contextmanager
def counting(tokens: Counter[str], model: Any = None) -> Iterator[None]:
    """Count the tokens that ``model`` reads, or any model of a pass: ``all`` and ``real``."""
    run = capture.run

    def note(mask: torch.Tensor) -> None:
        tokens.update(all=mask.numel(), real=int(mask.sum()))

    def noted(network: Any, batch: Any, *more: Any) -> Any:
        packed = next((each for each in more if isinstance(each, Packed)), None)
        if packed is None:
            note(batch["attention_mask"])
        else:
            rows, width = packed.inputs["input_ids"].shape
            places = packed.sequences[:, None] * width + packed.places
            tokens.update(all=rows * width, real=places.unique().numel())
        return run(network, batch, *more)

    if model is not None:
        hook = model.register_forward_pre_hook(
            lambda module, given, named: note(named["attention_mask"]), with_kwargs=True
        )
    capture.run = noted  # type: ignore[assignment]
    try:
        yield
    finally:
        capture.run = run
        if model is not None:
            hook.remove()


@torch.inference_mode()
def _plain_batch(
    batch: Sequence[Example],
    source: Any,
    processor: Any,
    model: Any,
    outputs: dict[int, torch.Tensor],
    layers: Sequence[int],
) -> np.ndarray:
    asked = [prompt(TEMPLATES[TEMPLATE], e.turns[:1]) for e in batch]
    texts = [
        "".join(segment.text for segment in segments) + f" {e.turns[1].text}</s>"
        for segments, e in zip(asked, batch, strict=True)
    ]
    images = [Image.open(source.images / n).convert("RGB") for e in batch for n in e.images]
    inputs = processor(
        images=images or None, text=texts, padding=True, padding_side="right", return_tensors="pt"
    ).to(model.device)
    if images:
        inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    model(**inputs, use_cache=False)
    visual = inputs["input_ids"] == processor.image_token_id
    text = inputs["attention_mask"].bool() & ~visual
    first = visual.int().argmax(dim=1, keepdim=True)
    positions = torch.arange(text.shape[1], device=text.device)
    text &= ~visual.any(dim=1, keepdim=True) | (positions > first)
    text[:, 0] = False  # <s>
    halves = []
    for layer in layers:
        for mask in (visual, text):
            weight = mask.unsqueeze(-1).double()
            mean = (outputs[layer].double() * weight).sum(1) / weight.sum(1).clamp_min(1)
            halves.append(torch.nn.functional.normalize(torch.tanh(mean), dim=1))
    return torch.nn.functional.normalize(torch.cat(halves, dim=1), dim=1).float().cpu().numpy()


@contextmanager
def clock(spent: Counter[str]) -> Iterator[None]:
    """Add up the seconds inside the parts of the pass while the context lasts."""
    places: list[tuple[Any, str, str]] = [
        (encode, "load_image", "decode"),
        (encoder, "encode", "encode"),
        (reference.Forward, "_values", "forward"),
        (work, "_write", "write"),
    ]

    def timed(part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return call(*arguments, **options)
            finally:
                spent[part] += time.perf_counter() - started  # type: ignore[assignment]

        return measured

    before = [getattr(place, name) for place, name, _ in places]
    for (place, name, part), call in zip(places, before, strict=True):
        setattr(place, name, timed(part, call))
    try:
        yield
    finally:
        for (place, name, _), call in zip(places, before, strict=True):
            setattr(place, name, call)
        spent["encode"] -= spent["decode"]  # type: ignore[assignment]


def main(arguments: Sequence[str] | None = None) -> float:
    """Time both and print; returns the ratio of examples per second."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", choices=sorted(SHAPES), default="tiny")
    parser.add_argument("--rows", type=int, default=768)
    parser.add_argument("--processes", default="1", help="of our pass: a count, or auto")
    parser.add_argument("--decoders", default="auto", help="processes that read images ahead")
    parser.add_argument("--device", default="auto")
    asked = parser.parse_args(arguments)
    shape = SHAPES[asked.shape]
    count = {n: v if v == "auto" else int(v) for n, v in vars(asked).items() if n[0] in "pd"
             and n != "device"}  # fmt: skip
    options = FeaturePass(
        device=asked.device, processes=count["processes"], decode_workers=count["decoders"]
    )
    device = device_of(asked.device)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "images").mkdir()
        source = Source(asked.rows, root / "images", shape)
        source.draw()
        over = Timed(Model(asked.shape, shape.max_length), source, shape.dtype, options, log=root)
        signal = Activations(shape.layers)
        made = Store(root / "store").ensure(over.model.step()).path / "model"
        for name in ("warm", "ours", "parts"):
            _share(root / "store", root / name, source)
        ours(replace(over, source=replace(source, rows=32)), root / "warm", signal)
        padded: tuple[Counter[str], Counter[str]] = Counter(), Counter()
        slow, expected = plain(over, made, signal, device, padded[0])
        fast, values = ours(over, root / "ours", signal)
        alone = replace(options, processes=1, decode_workers=0)
        spent: Counter[str] = Counter()
        with clock(spent), counting(padded[1]):
            whole, _ = ours(replace(over, options=alone), root / "parts", signal)
    _print(asked, device, source, slow, fast, whole, spent, options)
    shares = [1 - tokens["real"] / tokens["all"] for tokens in padded]
    print(f"padding      {shares[0]:.0%} of the plain loop's tokens, {shares[1]:.0%} of ours")
    print(f"largest difference of a value: {np.abs(values - expected).max():.1e}")
    return slow / fast


def _share(store: Path, other: Path, source: Source) -> None:
    """A store that has the model and the data, and no features yet."""
    other.mkdir()
    (other / "model").symlink_to(store / "model")
    for rows in {source.rows, 32}:
        Store(other).ensure(replace(source, rows=rows).step())


def _print(
    asked: Any,
    device: str,
    source: Source,
    slow: float,
    fast: float,
    whole: float,
    spent: Counter[str],
    options: FeaturePass,
) -> None:
    shown = Counter(name for e in source.examples for name in e.images)
    facts = environment()
    decoders = decoders_of(options, device, 1)
    print(f"device       {device}, {json.dumps(facts['hardware'])}, torch {torch.__version__}")
    print(
        f"data         {asked.rows} rows, {sum(shown.values())} with an image, {len(shown)} "
        f"distinct images of {source.shape.side[1]} x {source.shape.side[0]}"
    )
    print(f"plain loop   {asked.rows / slow:8.2f} examples/s, batch {PLAIN_BATCH}")
    print(
        f"our pass     {asked.rows / fast:8.2f} examples/s, processes {asked.processes}, "
        f"{decoders} decoders each"
    )
    print(f"ratio        {slow / fast:8.2f}")
    spent["rest"] = whole - sum(spent.values())  # type: ignore[assignment]
    parts = ", ".join(f"{part} {seconds / whole:.0%}" for part, seconds in spent.items())
    print(f"time goes to {parts} (one process, no decoders, {asked.rows / whole:.2f} examples/s)")


if __name__ == "__main__":
    main()
