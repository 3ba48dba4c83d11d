"""From the artifacts of a run to its line in the ledger: what each took, and where samples are."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from coincide.ledger.collect import _costs, collect
from coincide.ledger.evidence import ArtifactShelf
from coincide.ledger.result import Result
from coincide.report.cost import charges
from coincide.store import Build, Step, Store
from coincide.system.files import write_json


def step(kind: str, name: str, needs: tuple[Step, ...] = (), **facts: Any) -> Step:
    """An artifact with these facts; an evaluation has its two files."""

    def build(build: Build) -> dict[str, Any]:
        if kind == "eval":
            score = {"benchmark": name, "metric": "accuracy", "value": 0.5, "n": 2}
            write_json(build.dir / "result.json", {"scores": [score]})
            rows = [{"doc_id": i, "score": float(i)} for i in range(2)]
            (build.dir / "samples.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        return facts

    return Step(kind, name, 1, {"benchmark": name}, build, needs)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def run(store: Store, seed: int) -> Result:
    data, reference = step("data", "d"), step("model", "ref")
    signals = [step("features", name, (data, reference)) for name in ("act", "tokens")]
    clusters = step("clusters", "k", (signals[0],))
    subset = step("subset", "s", (data, clusters), budget=0.2, k=2, composition={"vqa": 2})
    adapter = step("adapter", f"a-{seed}", (subset,), world_size=1)
    scores = [step("eval", name, (adapter, data)) for name in ("gqa", "pope")]
    for one in (data, reference, *signals, clusters, subset, adapter, *scores):
        store.ensure(one)
    names = dict.fromkeys(("method", "variant", "data", "reference", "target", "suite"), "x")
    return collect(
        store, features=signals, before=[clusters], subset=subset, adapter=adapter, scores=scores,
        names=names, seed=seed, config={},
    )  # fmt: skip


def test_every_artifact_is_named_once_with_its_stage_and_time(store: Store) -> None:
    found = run(store, 0)
    stages = [(cost.stage, cost.folder.rsplit("-", 1)[0]) for cost in found.costs]
    assert stages == [
        ("reference", "model/ref"), ("features", "features/act"), ("features", "features/tokens"),
        ("select", "clusters/k"), ("select", "subset/s"), ("train", "adapter/a-0"),
        ("evaluate", "eval/gqa"), ("evaluate", "eval/pope"),
    ]  # fmt: skip
    assert all(cost.seconds >= 0 and cost.started > 1.6e9 for cost in found.costs)
    assert {cost.gpus for cost in found.costs} == {0}


def test_runs_share_what_they_both_name(store: Store) -> None:
    runs = [run(store, 0), run(store, 1)]
    (charge,) = charges([runs], runs)
    assert charge.shared["select"] == pytest.approx(charge.whole["select"] / 2)
    assert charge.shared["train"] == pytest.approx(charge.whole["train"])


def test_a_reference_trained_here_is_charged_with_its_training(store: Store) -> None:
    """The merged model's key has the hash of the adapter's weights, by which it is found."""

    def train(build: Build) -> dict[str, Any]:
        (build.dir / "adapter_model.safetensors").write_bytes(b"weights")
        return {}

    store.ensure(Step("adapter", "tuned-ref", 1, {}, train))
    digest = hashlib.sha256(b"weights").hexdigest()
    merged = Step("model", "tuned", 1, {"adapter": digest}, lambda _: {})
    features = step("features", "act", (step("data", "d"), merged))
    for one in (merged, features):
        store.ensure(one)
    costs = _costs(store, [features], [], features, features, [])
    first = [(c.stage, c.folder.rsplit("-", 1)[0]) for c in costs][:3]
    assert first == [
        ("reference", "adapter/tuned-ref"), ("reference", "model/tuned"),
        ("features", "features/act"),
    ]  # fmt: skip


def test_scores_name_their_samples(store: Store) -> None:
    found = run(store, 0)
    assert [s.samples.rsplit("-", 1)[0] for s in found.scores] == ["eval/gqa", "eval/pope"]
    samples = ArtifactShelf(store.root).samples(found, "pope")
    assert samples is not None
    assert samples.numbers["score"].tolist() == [0.0, 1.0]
