"""A store and a ledger of three small experiments, made by hand; no number here was measured."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from coincide.ledger.result import Result, Score
from coincide.store import Build, Step, Store
from coincide.system.files import write_json

ROWS = 12
STEPS = 30
SECRET = "hunter2-correct-horse-battery"


@dataclass(frozen=True)
class World:
    root: Path
    full: Result
    random: Result
    coincide: Result

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def ledger(self) -> list[Result]:
        return [self.full, self.random, self.coincide]


def make(root: Path, name: str = "toy") -> World:
    """``name``: of the data, which the content of another follows."""
    store = Store(root / "store")
    data = Step("data", name, 1, {"n": ROWS} | ({"of": name} if name != "toy" else {}), _data)
    clusters = Step("clusters", f"{name}-k3", 1, {"k": 3}, _clusters, needs=(data,))
    scores = Step("scores", f"random-{name}", 1, {}, _scores, needs=(data,))
    for step in (data, clusters, scores):
        store.ensure(step)
    return World(
        root,
        _result(store, data, "full", range(ROWS), (80.0, 50.0), day=1),
        _result(store, data, "random", (1, 4, 5, 10), (60.0, 40.0), day=2, basis=scores),
        _result(store, data, "coincide", (0, 1, 6, 11), (72.0, 45.0), day=3, basis=clusters),
    )


def _result(
    store: Store,
    data: Step,
    method: str,
    rows: Any,
    values: tuple[float, float],
    *,
    day: int,
    basis: Step | None = None,
) -> Result:
    needs = (data, basis) if basis else (data,)
    of = data.name
    name = f"{method}-{of}"

    def choose(build: Build) -> dict[str, Any]:
        return _subset(build, np.asarray(list(rows)), with_table=method == "coincide")

    subset = Step("subset", name, 1, {"method": method}, choose, needs=needs)
    adapter = Step("adapter", f"tiny-{name}", 1, {}, _adapter, needs=(data, subset))
    keys = {
        step.kind: store.ensure(step).path.relative_to(store.root) for step in (subset, adapter)
    }
    k = len(list(rows))
    return Result(
        method=method,
        variant="released" if method == "coincide" else "",
        data=of,
        reference="tiny_ref" if method == "coincide" else "",
        target="tiny",
        suite="demo",
        budget=k / ROWS,
        k=k,
        seed=0,
        scores=tuple(
            Score(name, "exact_match", value, 200, 3.0, "greedy")
            for name, value in zip(("counting", "presence"), values, strict=True)
        ),
        seconds={"features": 5.0, "select": 1.0, "train": 40.0, "evaluate": 9.0},
        keys={kind: str(path) for kind, path in keys.items()},
        composition={"shapes": k - 1, "digits": 1},
        config={
            "method": {"name": method},
            "data": {"name": of},
            "target": {"name": "tiny"},
            "train": {"lr": 1e-3},
            "budget": k / ROWS,
            "seed": 0,
            "group": "sweep-toy",
            "overrides": [f"method={method}"],
        },
        versions={"torch": "2.14.1"},
        created=f"2026-01-0{day}T00:00:00Z",
    )


def _data(build: Build) -> dict[str, Any]:
    (build.dir / "images" / "a").mkdir(parents=True, exist_ok=True)
    for row in range(ROWS):
        picture = Image.new("RGB", (90, 60), (20 * row, 90, 160))
        picture.save(build.dir / "images" / "a" / f"{row}.png")
    return {"rows": ROWS}


def _clusters(build: Build) -> dict[str, Any]:
    np.save(build.dir / "assignment.npy", np.arange(ROWS, dtype=np.int32) % 3)
    return {"clusters": 3}


def _scores(build: Build) -> dict[str, Any]:
    np.save(build.dir / "score.npy", np.linspace(0, 1, ROWS, dtype=np.float32))
    return {"judged": ROWS}


def _subset(build: Build, rows: np.ndarray, *, with_table: bool) -> dict[str, Any]:
    np.save(build.dir / "rows.npy", rows)
    write_json(build.dir / "ids.json", [f"id{row}" for row in rows])
    records = [{"id": f"id{row}", "image": f"a/{row}.png", "conversations": []} for row in rows]
    write_json(build.dir / "subset.json", records)
    if with_table:
        table = {"cluster": [0, 1, 2], "size": [4, 4, 4], "chosen": [2, 1, 1]}
        scores = {"score": [0.5, 0.25, float("nan")]}
        pd.DataFrame(table | scores).to_parquet(build.dir / "clusters.parquet")
    details = {"url": f"https://me:{SECRET}@example.org/x", "density": {"max": 0.5}}
    return {"rows": ROWS, "topped_up": 0, "details": details}


def _adapter(build: Build) -> dict[str, Any]:
    (build.dir / "adapter").mkdir(exist_ok=True)
    weights = build.step.key.encode() * 64  # differs between adapters
    (build.dir / "adapter" / "adapter_model.safetensors").write_bytes(weights)
    (build.dir / "adapter" / "adapter_config.json").write_text("{}")
    lines = (json.dumps({"step": i + 1, "loss": 6 / (i + 1)}) for i in range(STEPS))
    (build.dir / "log.jsonl").write_text("\n".join(lines) + "\n")
    return {"steps": STEPS}


def with_secrets(result: Result) -> Result:
    """``result`` as a careless configuration would make it."""
    config = {
        **result.config,
        "judge": {"api_key": SECRET, "url": f"https://u:{SECRET}@judge.example.org/v1"},
        "note": f"call it with {SECRET}",
        "data": {"name": "toy", "source": f"https://example.org/a?token={SECRET}"},
        "overrides": [f"judge.api_key={SECRET}"],
    }
    return replace(result, config=config)
