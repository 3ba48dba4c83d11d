"""``data=lab``: the demo's world with five times as many rows, to tell sound methods apart.

The same kinds of pictures, questions and faults as ``data=demo``, drawn by a seed of its own, so
that no picture of the one is in the other. Nothing in it was chosen by comparing methods, and it is
frozen: change it, and raise ``VERSION``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coincide.data.demo.source import generate, open_demo
from coincide.schema import Dataset
from coincide.store import Build, Step

VERSION = 1


@dataclass(frozen=True)
class Lab:
    """``n`` training rows and ``items`` questions per benchmark, from ``seed``."""

    n: int = 20_000
    items: int = 500
    seed: int = 19
    clusters: int = 300
    """K for methods that cluster; read by ``conf/method``, not part of the data."""
    name: str = "lab"

    def step(self) -> Step:
        """The step that generates it: ``train.json``, ``images/``, ``benchmarks/<name>/``."""
        config = {"pool": "lab", "n": self.n, "items": self.items, "seed": self.seed}
        return Step("data", self.name, VERSION, config, self._build, note=f"{self.n:,} examples")

    def size(self) -> int:
        """``n``."""
        return self.n

    def open(self, artifact: Path) -> Dataset:
        """The training examples, read like any LLaVA json."""
        return open_demo(artifact, self.name)

    def _build(self, build: Build) -> Mapping[str, Any]:
        return generate(build.dir, self.n, self.items, self.seed)
