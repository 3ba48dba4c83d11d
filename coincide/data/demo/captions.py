"""Captions for stage 1: they teach to see and to name things, but not to follow instructions."""

from __future__ import annotations

from typing import Any

import numpy as np

from coincide.data.demo.world import (
    POSITIONS,
    SHAPES,
    TEXTURES,
    Scene,
    Split,
    chart,
    coloured,
    digit,
    draw,
    letter,
    scatter,
    written,
)


def any_scene(rng: np.random.Generator, split: Split) -> Scene:
    """A scene of any kind: objects, things mixed, writing, or a chart."""
    draw = rng.random()
    # 30 %: one to seven shapes and textures
    if draw < 0.3:
        return scatter(rng, [coloured(rng, SHAPES + TEXTURES) for _ in range(rng.integers(1, 8))])
    # 45 %: two to nine things, of which half are digits, a quarter shapes, a quarter letters
    if draw < 0.75:
        makers = (lambda: coloured(rng), lambda: letter(rng)) + 2 * (lambda: digit(rng, split),)
        return scatter(rng, [makers[rng.integers(4)]() for _ in range(rng.integers(2, 10))])
    # 17 %: a row of one to three digits (70 %) or letters
    if draw < 0.92:
        maker = (lambda: digit(rng, split)) if rng.random() < 0.7 else (lambda: letter(rng))
        return written(rng, [maker() for _ in range(rng.integers(1, 4))])
    # 8 %: a chart
    return chart(rng)


def dense(scene: Scene) -> str:
    """A caption that names every cell in raster order."""
    return " ".join("empty" if thing is None else thing.words() for thing in scene)


def listed(scene: Scene, rng: np.random.Generator) -> str:
    """A caption that names some cells in any order, the place before or after the thing."""
    parts = []
    for place in rng.permutation(len(scene))[: rng.integers(2, 5)]:
        thing = scene[place]
        words = "empty" if thing is None else thing.words()
        first, second = (
            (POSITIONS[place], words) if rng.random() < 0.5 else (words, POSITIONS[place])
        )
        parts.append(f"{first} : {second}")
    return " , ".join(parts)


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """One caption in one of the two styles."""
    return dense(scene) if rng.random() < 0.5 else listed(scene, rng)


def captioned(rng: np.random.Generator, count: int, split: Split, processor: Any) -> dict[str, Any]:
    """Model inputs for ``count`` new scenes, each with one caption."""
    import torch

    scenes = [any_scene(rng, split) for _ in range(count)]
    texts = processor.tokenizer(
        [caption(scene, rng) for scene in scenes],
        padding=True,
        truncation=True,
        return_tensors="pt",
    )
    pictures = torch.from_numpy(np.stack([draw(scene, rng) for scene in scenes]))
    return {
        "input_ids": texts["input_ids"],
        "attention_mask": texts["attention_mask"],
        "pixel_values": pictures.permute(0, 3, 1, 2).float() / 127.5 - 1,
    }
