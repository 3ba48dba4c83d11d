"""What the steps give that copy, convert or merge models: tensors by name, and texts."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from coincide.store import Build, Step
from tests.versions.outputs import store

ADAPTED = "model.language_model.layers.{}.self_attn.q_proj"


@cache
def _miniatures() -> Path:
    """A folder for miniatures of published models, for this process."""
    return Path(tempfile.mkdtemp(prefix="versions-models-"))


def _made(step: Step) -> dict[str, Any]:
    """The tensors of a model's artifact."""
    from coincide.models.tensors import read_tensors

    there = store()
    with contextlib.redirect_stdout(io.StringIO()):
        for need in step.needs:
            there.ensure(need)
        folder = there.ensure(step).path / "model"
    tensors = read_tensors(sorted(folder.glob("*.safetensors")))
    return {name: tensor.float() for name, tensor in tensors.items()}


def llava_1_5() -> Any:
    """Assembled from a language model, a CLIP tower and a projector."""
    from coincide.models.llava_1_5 import Llava15
    from tests.mini.checkpoints import make_clip_tower, make_projector, make_vicuna

    root = _miniatures()
    projector = make_projector(root / "projector" / "mm_projector.bin").parent
    parts = (make_vicuna(root / "vicuna"), projector, make_clip_tower(root / "clip"))
    return _made(Llava15(*map(str, parts)).step())


def tinyllava() -> Any:
    """Converted from the original's files."""
    from coincide.models.tinyllava import TinyLlava
    from tests.mini.checkpoints import make_tinyllava

    folder = make_tinyllava(_miniatures() / "TinyLLaVA-2.0B")
    return _made(TinyLlava(repo=str(folder), tower=f"{folder}-SigLIP").step())


def hub() -> Any:
    """A folder's model, unchanged: tensors of a pickle as safetensors."""
    from coincide.models.hub import Hub
    from tests.mini.checkpoints import make_vicuna

    return _made(Hub(str(make_vicuna(_miniatures() / "vicuna"))).step())


def _clip_folder() -> str:
    """The demo's CLIP as a published model."""
    from coincide.models.clip import TinyClip

    with contextlib.redirect_stdout(io.StringIO()):
        return str(store().ensure(TinyClip().step()).path / "model")


def hub_clip() -> Any:
    from coincide.models.clip import HubClip

    return _made(HubClip(_clip_folder()).step())


def vision() -> Any:
    from coincide.models.vision import HubVision

    return _made(HubVision(_clip_folder()).step())


def sentence() -> Any:
    from coincide.models.sentence import HubSentence

    return _made(HubSentence(_clip_folder()).step())


def _write_adapter(folder: Path) -> None:
    """LoRA of rank 2 of two projections, as PEFT writes it."""
    from safetensors.numpy import save_file

    from coincide.models.tuned import CONFIG, PREFIX, WEIGHTS

    folder.mkdir(parents=True, exist_ok=True)
    rules = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "use_rslora": False,
             "fan_in_fan_out": False, "rank_pattern": {}, "alpha_pattern": {},
             "bias": "none", "use_dora": False, "modules_to_save": None}  # fmt: skip
    (folder / CONFIG).write_text(json.dumps(rules), encoding="utf-8")
    rng, width = np.random.Generator(np.random.PCG64(5)), _width()
    shapes = {"A": (2, width), "B": (width, 2)}
    save_file(
        {f"{PREFIX}{ADAPTED.format(layer)}.lora_{half}.weight":
         rng.standard_normal(shape).astype(np.float32)
         for layer in (0, 1) for half, shape in shapes.items()},
        folder / WEIGHTS,
    )  # fmt: skip


def _width() -> int:
    from coincide.models.tiny import SIZES_OF

    return int(SIZES_OF["tiny"].hidden)


def _tiny() -> Any:
    from coincide.models.tiny import Tiny

    return Tiny("tiny", "tiny", "tiny", 512)


def _adapted(tensors: dict[str, Any]) -> dict[str, Any]:
    """What the adapter changed, and the names of all."""
    kept = {n: t for n, t in tensors.items() if "layers.0." in n or "layers.1." in n}
    return {"names": sorted(tensors), **kept}


def tuned() -> Any:
    """An adapter merged into the demo's model."""
    from coincide.models.tuned import Tuned

    folder = _miniatures() / "adapter"
    _write_adapter(folder)
    return _adapted(_made(Tuned(_tiny(), str(folder), "tuned").step()))


def merged() -> Any:
    """The same adapter as an artifact of a training."""
    from coincide.selection.tuned import merged_target

    def build(build: Build) -> dict[str, Any]:
        _write_adapter(build.dir / "adapter")
        return {}

    return _adapted(_made(merged_target(_tiny(), Step("adapter", "made", 1, {}, build))))
