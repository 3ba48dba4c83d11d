"""All methods together: one forward pass per model and row, and subsets that ignore batching."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from baselines.clip_score import ClipScore
from baselines.d2_pruning import D2Pruning
from baselines.el2n import El2n
from baselines.perplexity import Perplexity
from baselines.self_filter import SelfFilter
from baselines.self_sup import SelfSup
from baselines.semdedup import SemDeDup
from coincide.config import FeaturePass
from coincide.features.engine.contract import SignalPass
from coincide.features.extract import extract, signal_step
from coincide.features.forward import capture, clip
from coincide.features.passes.clip import ClipPass
from coincide.features.passes.reference import ReferencePass
from coincide.method import Coincide
from coincide.schema import Clustering, Method, signals_of
from coincide.selection.pool import NeedSteps, StorePool
from coincide.selection.stage import clusters_step
from coincide.store import Store
from tests.features.conftest import Model, Source
from tests.features.test_clip import RandomClip

LEARNS = SelfFilter(depth=8)
METHODS: list[Method] = [
    Coincide(layers=(0, 1), clusters=3),
    El2n(),
    Perplexity(),
    SemDeDup(clusters=3),
    D2Pruning(),
    SelfSup(clusters=3),
    ClipScore(),
]
ROWS, DROPPED = 24, 3


class ScoringPool(StorePool):
    """Scores made on the spot; the pipeline keeps them as artifacts."""

    def scored(self, method: Any, seed: int) -> Mapping[str, np.ndarray]:
        return method.score(self, seed)


def pool(root: Path, source: Source, model: Model, **options: int) -> ScoringPool:
    """Every signal and clustering that the methods need, through the store."""
    store, settings = Store(root), FeaturePass(**options)  # type: ignore[arg-type]
    passes: dict[str, SignalPass] = {
        "reference": ReferencePass(model, source, "float64", settings),
        "clip": ClipPass(RandomClip(), source, settings),
    }
    data = source.step()
    needs = [need for method in [*METHODS, LEARNS] for need in method.needs()]
    signals = dict.fromkeys(signal for need in needs for signal in signals_of(need))
    steps = {}
    for step in (data, *(over.model.step() for over in passes.values())):
        store.ensure(step)
    for name, over in passes.items():
        mine = {
            s: signal_step(s, over, data=data, base=over.model.step())
            for s in signals
            if s.model == name
        }
        extract(store, mine, over)
        steps |= mine
    clusters = {
        need: clusters_step(need, steps[need.signal])
        for need in needs
        if isinstance(need, Clustering)
    }
    for step in clusters.values():
        store.ensure(step)
    return ScoringPool(store, NeedSteps(steps, clusters, {}), source.open(Path()))


def test_every_row_passes_once_through_each_model(
    tmp_path: Path, source: Source, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {"reference": 0, "texts": 0, "images": 0}
    run, texts, images = capture.run, clip.ClipEncoder.texts, clip.ClipEncoder.images

    def count(name: str, rows: int) -> None:
        seen[name] += rows

    monkeypatch.setattr(
        capture,
        "run",
        lambda m, b, *more: (count("reference", len(b["input_ids"])), run(m, b, *more))[1],
    )
    monkeypatch.setattr(
        clip.ClipEncoder, "texts", lambda s, t: (count("texts", len(t)), texts(s, t))[1]
    )
    monkeypatch.setattr(
        clip.ClipEncoder, "images", lambda s, p: (count("images", len(p)), images(s, p))[1]
    )
    pool(tmp_path, source, model, shard_rows=10)
    assert seen == {"reference": ROWS - 1, "texts": ROWS - 1, "images": 7}


def test_batch_size_one_and_eight_give_the_same_subsets(
    tmp_path: Path, source: Source, model: Model
) -> None:
    one = pool(tmp_path / "one", source, model, batch_size=1)
    eight = pool(tmp_path / "eight", source, model, batch_size=8)
    for method, k in product(METHODS, (5, 15)):
        first, second = (method.select(each, k, 0).rows for each in (one, eight))
        np.testing.assert_array_equal(first, second)
        assert DROPPED not in first.tolist()
        if not isinstance(method, Coincide):
            assert 9 not in first.tolist()  # its answer is empty
