"""A pool of two dozen odd rows over a real tiny LLaVA, as the feature pass gets it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from coincide.schema import Dataset, Example, Turn
from coincide.store import Build, Step
from tests.tiny_llava import make_tiny_llava


def rows() -> list[Example]:
    """One image, several turns, two images, text alone, an empty answer, one far too long."""
    found = []
    for row in range(24):
        words = " ".join(["is the left shape larger"] * (1 + row % 5))
        image = "<image>\n" if row % 6 else ""
        turns = [Turn("human", f"{image}{words} {row}?"), Turn("gpt", "yes " * (1 + row % 3))]
        if row % 4 == 0:
            turns += [Turn("human", "how many squares?"), Turn("gpt", "three")]
        images = (f"{row % 7}.png",) if image else ()
        if row == 7:
            turns, images = (
                [Turn("human", "<image>\n<image>\nsame?"), Turn("gpt", "no")],
                ("1.png", "2.png"),
            )
        if row == 9:
            turns = [Turn("human", "<image>\nnothing?"), Turn("gpt", "")]
        found.append(Example(row, f"id-{row}", images, tuple(turns), "odd" if row % 2 else "even"))
    return found


@dataclass(frozen=True)
class Source:
    """The pool as a data source."""

    images: Path
    name: str = "pool"

    def step(self) -> Step:
        return Step("data", "pool", 1, {}, lambda build: {"rows": 24})

    def open(self, artifact: Path) -> Dataset:
        return Dataset("pool", artifact / "x.json", self.images, rows(), dropped={3: "policy"})


@dataclass(frozen=True)
class Model:
    """The tiny LLaVA as a model source."""

    folder: Path
    name: str = "tiny_llava"
    template: str = "vicuna_v1"
    max_length: int = 256

    def step(self) -> Step:
        def build(build: Build) -> dict[str, int]:
            make_tiny_llava(build.dir)
            return {}

        return Step("model", "tiny_llava", 1, {}, build)


@pytest.fixture(scope="package")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for i in range(7):
        pixels = random.integers(0, 255, (40, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return Source(folder)


@pytest.fixture(scope="package")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch on one thread, as in the processes that a test compares with."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
