"""The cases: what is versioned, where its version stands, and its output on a tiny case."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.versions import models, outputs, signals, steps


@dataclass(frozen=True)
class Case:
    """Something whose output stands behind a version."""

    version: Callable[[], Any]
    where: str
    """What is to be raised, and where it stands."""
    output: Callable[[], Any]
    """The output of a tiny case: texts, numbers and arrays, nested."""


def digest(value: Any) -> str:
    """Twelve hex digits of ``value``, arrays with dtype and shape; the order of keys is none."""
    found = hashlib.sha256()
    for part in _parts(value):
        found.update(part)
    return found.hexdigest()[:12]


def _parts(value: Any) -> Iterator[bytes]:
    if isinstance(value, dict):
        for key in sorted(value, key=str):
            yield f"{{{key}:".encode()
            yield from _parts(value[key])
    elif isinstance(value, list | tuple):
        yield f"[{len(value)}".encode()
        for item in value:
            yield from _parts(item)
    elif hasattr(value, "detach"):
        yield from _parts(value.detach().numpy())
    elif isinstance(value, np.ndarray):
        rounded = value.astype(np.float64).round(3) + 0.0 if value.dtype.kind == "f" else value
        yield f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(rounded).tobytes()
    else:
        yield repr(round(value, 6) if isinstance(value, float) else value).encode()


def _constant(module: str, name: str = "VERSION") -> Callable[[], Any]:
    from importlib import import_module

    return lambda: getattr(import_module(module), name)


def _weights(name: str) -> Callable[[], Any]:
    """Weights that ship are as good as a version: who retrains them changes their hash."""
    from coincide.models.tiny import ASSETS
    from coincide.system.files import sha256_file

    return lambda: sha256_file(ASSETS / f"{name}.safetensors")[:12]


def _step(module: str, output: Callable[[], Any], name: str = "VERSION") -> Case:
    return Case(_constant(module, name), f"{name} in {module.replace('.', '/')}.py", output)


_PRETRAIN = "the shipped weights: python -m coincide.models.pretrain tiny, and tiny_ref"
CASES: dict[str, Case] = {
    "data/demo": _step("coincide.data.demo.source", outputs.demo),
    "data/demo/benchmarks": _step("coincide.data.demo.source", outputs.benchmarks),
    "data/demo_dev": _step("coincide.data.demo.dev", outputs.demo_dev),
    "data/benchmark_targets": _step("eval.targets", steps.benchmark_targets),
    "data/examples": _step("coincide.data.llava_json", outputs.examples),
    "model/tiny": _step("coincide.models.tiny", outputs.tiny_model),
    "model/tiny/perception": _step("coincide.models.tiny", outputs.perception),
    "model/tiny/captions": Case(_weights("tiny"), _PRETRAIN, outputs.captions),
    "model/tiny/pretraining": Case(_weights("tiny"), _PRETRAIN, outputs.pretraining),
    "model/tiny_clip": _step("coincide.models.clip", outputs.tiny_clip),
    "model/tiny_clip/pretraining": Case(
        _weights("clip"), "the shipped weights: python -m coincide.models.pretrain_clip",
        outputs.clip_pretraining,
    ),
    "model/hub": _step("coincide.models.hub", models.hub),
    "model/hub_clip": _step("coincide.models.clip", models.hub_clip, "HUB_VERSION"),
    "model/hub_vision": _step("coincide.models.vision", models.vision),
    "model/hub_sentence": _step("coincide.models.vision", models.sentence),
    "model/llava_1_5": _step("coincide.models.llava_1_5", models.llava_1_5),
    "model/tinyllava": _step("coincide.models.tinyllava", models.tinyllava),
    "model/tuned": _step("coincide.models.tuned", models.tuned),
    "merged": _step("coincide.selection.tuned", models.merged),
    "scan": _step("coincide.selection.scan", steps.scan),
    **{
        f"features/{method}": _step("coincide.features.extract", lambda m=method: steps.features(m))
        for method in ("coincide", "el2n", "semdedup", "clip_score")
    },
    **{
        name: _step("coincide.features.extract", signals.reference(signal))
        for name, signal in signals.CASES.items()
    },
    "features/picture_embedding": _step("coincide.features.extract", signals.pictures),
    "features/sentence_embedding": _step("coincide.features.extract", signals.sentences),
    "clusters": _step("coincide.selection.stage", steps.clusters, "CLUSTERS_VERSION"),
    "difficulty": _step("train.self_filter", steps.difficulty),
    "scores": _step("coincide.selection.scoring", steps.scores),
    "subset": _step("coincide.selection.stage", steps.subset, "SUBSET_VERSION"),
    "subset/coincide": _step("coincide.selection.stage", steps.coincide, "SUBSET_VERSION"),
    **{
        f"subset/{name}": _step(
            "coincide.selection.stage", lambda n=name: steps.selected(n), "SUBSET_VERSION"
        )
        for name in steps.METHODS
    },
    "subset/mmssr": _step("coincide.selection.stage", steps.by_table, "SUBSET_VERSION"),
    "subset/xmas": _step("coincide.selection.stage", steps.by_attention, "SUBSET_VERSION"),
    "features/gradients": _step("coincide.features.extract", steps.sketches),
    "rows": _step("coincide.data.kept", steps.rows),
    "warmup": _step("train.warmup", steps.warm_up),
    "data/lab": _step("coincide.data.demo.lab", outputs.lab),
    "subset/matched": _step("coincide.selection.stage", steps.matched, "SUBSET_VERSION"),
    "adapter": _step("train.stage", steps.training),
    "eval": _step("eval.stage", steps.evaluation),
}  # fmt: skip
