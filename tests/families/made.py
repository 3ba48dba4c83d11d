"""Save a tiny model of a family with its own processor; the rows that it is tried on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from coincide.schema import Dataset, Example, Turn
from tests.families import llava_kin, other_kin, qwen_kin, tiles_kin
from tests.families.parts import BUILDERS, configuration

_ = (llava_kin, other_kin, qwen_kin, tiles_kin)  # they fill BUILDERS
PICTURES = {
    "square.png": (48, 48),
    "high.png": (40, 96),
    "wide.png": (128, 40),
    "odd.png": (33, 57),
}


def make(name: str, folder: Path, seed: int = 0) -> Path:
    """Build family ``name`` with weights large enough to tell rows apart; returns its folder."""
    import torch
    from transformers import AutoModelForImageTextToText

    made = BUILDERS[name]()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(configuration(made))
        with torch.no_grad():
            for weights in model.parameters():
                if weights.dim() >= 2:
                    weights.normal_(0, 0.08)
    model.save_pretrained(folder)
    made.processor.save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Source:
    """The rows as a data source."""

    dataset: Dataset
    name: str = "families"

    def open(self, path: Path) -> Dataset:
        return self.dataset


def rows(folder: Path) -> Dataset:
    """Ten rows: with one picture, two, none; two show the same picture; several turns; one whose
    answer is long.
    """
    random = np.random.default_rng(0)
    for name, (width, height) in PICTURES.items():
        noise = random.integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / name)
    said = [
        (("square.png",), "<image>\nwhat colour is the circle?", "red"),
        (("square.png",), "<image>\nhow many squares are there?", "three"),
        (("high.png",), "how many\n<image>", "many colours"),
        (("wide.png",), "<image>\nwhat is left?", "yes", "and right?", "nothing but a triangle"),
        (("odd.png",), "<image>\nabove?", "no"),
        ((), "hello there", "three squares", "and now", "two", "then", "no"),
        ((), "what is green?", "a large triangle"),
        (("square.png", "high.png"), "<image> then <image>?", "yes", "why", "so it is"),
        (("odd.png",), "<image>\nsay it", "one two three four " * 8 + "red"),
        (("square.png", "square.png"), "<image><image>\nalike?", "yes"),
    ]
    examples = tuple(
        Example(row, str(row), images, _turns(texts), "families")
        for row, (images, *texts) in enumerate(said)
    )
    return Dataset("families", folder / "train.json", folder, examples)


def _turns(texts: list[str]) -> tuple[Turn, ...]:
    return tuple(Turn("gpt" if i % 2 else "human", text) for i, text in enumerate(texts))
