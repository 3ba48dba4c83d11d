"""``targets=demo``: a few questions of each of the demo's benchmarks, none of which they ask.

The same kinds of questions about pictures of their own, with the handwriting of the training rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coincide.data.demo.source import BENCHMARKS, ask, open_demo
from coincide.schema import Dataset
from coincide.store import Build, Step
from coincide.system.files import write_json

VERSION = 1


@dataclass(frozen=True)
class DemoDev:
    """``items`` questions per benchmark, from ``seed``; each row's source is its benchmark."""

    items: int = 10
    seed: int = 0
    name: str = "demo_dev"

    def step(self) -> Step:
        """The step that makes ``train.json`` and ``images/``."""
        config = {"items": self.items, "seed": self.seed}
        return Step("data", self.name, VERSION, config, self._build)

    def size(self) -> int:
        """Rows of all benchmarks."""
        return self.items * len(BENCHMARKS)

    def open(self, artifact: Path) -> Dataset:
        """The questions with their answers, as LLaVA json."""
        return open_demo(artifact, self.name)

    def _build(self, build: Build) -> Mapping[str, Any]:
        records = []
        for number, (name, makers) in enumerate(BENCHMARKS.items()):
            rng = np.random.Generator(np.random.PCG64([self.seed, 5, number]))
            (build.dir / "images" / name).mkdir(parents=True, exist_ok=True)
            for i, (picture, question) in enumerate(ask(makers, self.items, rng, "train")):
                path = f"{name}/{i}.png"
                (build.dir / "images" / path).write_bytes(picture)
                said = {"human": f"<image>\n{question.text}", "gpt": question.answer}
                turns = [{"from": who, "value": text} for who, text in said.items()]
                record = {"id": f"{name}-{i}", "source": name, "image": path}
                records.append({**record, "conversations": turns})
        write_json(build.dir / "train.json", records)
        return {"rows": len(records)}
