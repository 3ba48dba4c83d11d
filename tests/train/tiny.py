"""A tiny LLaVA, forty examples and a store: finetuning for real, in seconds.

``python -m tests.train.tiny STORE CHANGES`` (JSON) trains in a process of its own.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from coincide.schema import Dataset
from coincide.store import Build, Step, Store
from coincide.system.files import write_json
from tests.tiny_llava import make_tiny_llava
from train.recipe import Recipe
from train.stage import train_step

ROWS = 41
TINY = {
    "rank": 4,
    "alpha": 8,
    "dropout": 0.0,
    "lr": 1e-2,
    "projector_lr": 1e-3,
    "global_batch": 8,
    "micro_batch": 4,
    "epochs": 2,
    "max_length": 128,
    "precision": "fp32",
    "gradient_checkpointing": False,
    "zero_stage": 0,
    "processes": 1,
    "workers": 0,
    "threads": 1,
    "save_every": 4,
}


def make_rows(root: Path) -> list[dict[str, Any]]:
    """Two thirds with an image, two of them with two turns; the rest text alone."""
    rng = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    rows = []
    for i in range(ROWS):
        count = " ".join("ab c"[k % 4] for k in range(1 + i % 5))
        turns = [
            {"from": "human", "value": f"what {count}"},
            {"from": "gpt", "value": "red circle"},
        ]
        row: dict[str, Any] = {"id": f"r{i}", "conversations": turns}
        if i % 3:
            pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "images" / f"{i}.png")
            row["image"] = f"images/{i}.png"
            turns[0]["value"] = f"<image>\n{turns[0]['value']}"
        if i % 7 == 1:
            turns += [{"from": "human", "value": "how many"}, {"from": "gpt", "value": "3 . yes"}]
        rows.append(row)
    return rows


@dataclass(frozen=True)
class TinyModel:
    name: str = "tiny"
    template: str = "tiny"
    max_length: int = 128

    def step(self) -> Step:
        return Step("target", "tiny", 1, {}, self._build)

    def _build(self, build: Build) -> None:
        make_tiny_llava(build.dir)


@dataclass(frozen=True)
class TinyData:
    name: str = "forty"

    def step(self) -> Step:
        return Step("data", "forty", 1, {}, self._build)

    def _build(self, build: Build) -> None:
        write_json(build.dir / "train.json", make_rows(build.dir))

    def open(self, artifact: Path) -> Dataset:
        return Dataset("forty", artifact / "train.json", artifact, [])


def _subset(build: Build) -> None:
    shutil.copy(build.need(0).path / "train.json", build.dir / "subset.json")
    np.save(build.dir / "rows.npy", np.arange(ROWS))


@dataclass(frozen=True)
class Bench:
    """Steps made and ready in a store of their own; ``step`` gives one train step."""

    store: Store

    def step(self, *, seed: int = 0, **changes: Any) -> Step:
        base, data = TinyModel().step(), TinyData().step()
        subset = Step("subset", "all", 1, {}, _subset, (data,))
        return train_step(
            Recipe(**{**TINY, **changes}),
            model=TinyModel(),
            base=base,
            source=TinyData(),
            data=data,
            subset=subset,
            seed=seed,
        )

    def partial(self, step: Step) -> Path:
        """The folder in which the store builds ``step``."""
        return self.store.root / step.kind / f".partial-{step.key[:12]}"


def losses(artifact: Path) -> list[float]:
    """The loss of every step, as logged."""
    lines = (artifact / "log.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def weights(artifact: Path) -> bytes:
    """The adapter's bytes."""
    return (artifact / "adapter" / "adapter_model.safetensors").read_bytes()


if __name__ == "__main__":
    mine = Bench(Store(Path(sys.argv[1])))
    mine.store.ensure(mine.step(**json.loads(sys.argv[2])))
