"""What data, models and trainers give on a tiny case: texts, orders, rows, labels and pixels."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np


def rng_of(*seeds: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(list(seeds)))


# --- data -------------------------------------------------------------------------------------


@cache
def store() -> Any:
    """A store with the demo's tiny data, for this process."""
    from coincide.store import Store

    return Store(Path(tempfile.mkdtemp(prefix="versions-")) / "store")


def demo_source() -> Any:
    from coincide.data.demo import Demo

    return Demo(n=200, items=6)


def pixels(data: Any) -> np.ndarray:
    from PIL import Image

    with Image.open(data) as picture:
        return np.asarray(picture.convert("RGB"))


def demo() -> Any:
    """Annotations and pixels; how PNG packs them is Pillow's business."""
    folder = store().ensure(demo_source().step()).path
    images = sorted((folder / "images").rglob("*.png"))
    records = json.loads((folder / "train.json").read_text(encoding="utf-8"))
    return records, {str(p.relative_to(folder)): pixels(p) for p in images}


def lab() -> Any:
    """Annotations and pixels of the lab's first rows."""
    from coincide.data.demo.lab import Lab

    folder = store().ensure(Lab(n=200, items=6).step()).path
    records = json.loads((folder / "train.json").read_text(encoding="utf-8"))
    images = sorted((folder / "images").rglob("*.png"))
    return records, {str(p.relative_to(folder)): pixels(p) for p in images}


def benchmarks() -> Any:
    """Questions, answers and pixels of each."""
    import pyarrow.parquet as pq

    folder = store().ensure(demo_source().step()).path / "benchmarks"
    rows = {p.parent.name: pq.read_table(p).to_pylist() for p in sorted(folder.glob("*/*.parquet"))}
    return {
        name: [{**row, "image": pixels(io.BytesIO(row["image"]["bytes"]))} for row in of]
        for name, of in rows.items()
    }


def demo_dev() -> Any:
    """The demo's target questions, with their pictures."""
    from coincide.data.demo.dev import DemoDev

    folder = store().ensure(DemoDev(items=3).step()).path
    images = sorted((folder / "images").rglob("*.png"))
    records = json.loads((folder / "train.json").read_text(encoding="utf-8"))
    return records, {str(p.relative_to(folder)): pixels(p) for p in images}


def captions() -> Any:
    from coincide.data.demo.captions import any_scene, caption, dense, listed

    rng = rng_of(0, 9)
    scenes = [any_scene(rng, split) for split in ("pretrain", "train", "test") for _ in range(20)]
    return [(dense(scene), listed(scene, rng), caption(scene, rng)) for scene in scenes]


def examples() -> Any:
    """LLaVA json as every later step sees it."""
    dataset = demo_source().open(store().ensure(demo_source().step()).path)
    return [(e.row, e.id, e.images, [(t.role, t.text) for t in e.turns]) for e in dataset.examples]


# --- models -----------------------------------------------------------------------------------


def pretraining() -> Any:
    """What the tiny models learn from: the first batch of captions, and of cells."""
    from coincide.models import pretrain
    from coincide.models.tiny import make_processor

    batch = next(pretrain.batches(make_processor(), 1))
    return _inputs(batch), [pretrain.schedule(step, 50) for step in range(50)], pretrain.CLASSES


def clip_pretraining() -> Any:
    from coincide.models.clip import make_clip_processor
    from coincide.models.pretrain_clip import captioned

    return _inputs(captioned(rng_of(0, 5, 0), 16, "pretrain", make_clip_processor()))


def _inputs(batch: dict[str, Any]) -> Any:
    pixels = np.asarray((batch.pop("pixel_values") + 1) * 127.5).round().astype(np.uint8)
    return pixels, dict(batch)


def perception() -> Any:
    """The questions of the gate: what the model is shown and what is right."""
    from coincide.models.perception import caption_accuracy
    from coincide.models.tiny import make_processor

    shown: list[Any] = []

    def model(**batch: Any) -> Any:
        shown.append(_inputs({k: v for k, v in batch.items() if k != "use_cache"}))
        raise StopIteration

    with contextlib.suppress(StopIteration):
        caption_accuracy(model, make_processor(), scenes=8, seed=7)
    return shown


def tiny_model() -> Any:
    """Words, picture and shapes of the weights."""
    from PIL import Image

    from coincide.models.tiny import SIZES_OF, WORDS, make_model, make_processor

    processor = make_processor()
    picture = Image.fromarray(np.arange(48 * 48 * 3, dtype=np.uint8).reshape(48, 48, 3))
    seen = processor(text="<image>\nWhat colour is the star?", images=picture, return_tensors="pt")
    shapes = {
        size: {k: list(v.shape) for k, v in make_model(SIZES_OF[size], processor.tokenizer)
               .state_dict().items()}
        for size in SIZES_OF
    }  # fmt: skip
    return list(WORDS), {k: np.asarray(v) for k, v in seen.items()}, shapes


def tiny_clip() -> Any:
    from coincide.models.clip import make_clip, make_clip_processor

    processor = make_clip_processor()
    ids = processor.tokenizer(["large red star", "top left : empty"], padding=True).input_ids
    model = make_clip(processor.tokenizer)
    return ids, {k: list(v.shape) for k, v in model.state_dict().items()}
