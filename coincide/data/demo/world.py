"""The demo's pictures: 48 x 48 pixels in 3 x 3 cells, each empty or with one thing.

Things are coloured shapes and textures in two sizes, real handwritten digits (scikit-learn's
``load_digits``, UCI optdigits) and letters; charts are columns of bar cells. A cell has 16 x 16
pixels, like a patch of the vision tower, so a model of a million parameters can learn to see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GRID, CELL = 3, 16
SIDE = GRID * CELL
COLOURS = {
    "red": (214, 39, 40),
    "green": (44, 150, 44),
    "blue": (31, 90, 200),
    "yellow": (235, 200, 30),
    "purple": (140, 70, 180),
    "orange": (255, 127, 14),
}
COLOUR_NAMES = tuple(COLOURS)
SHAPES = ("circle", "square", "triangle", "cross", "ring", "star")
TEXTURES = ("stripes", "checks", "dots")
SIZES = ("small", "large")
LETTERS = "ABCDEFHKLMNPRSTU"
POSITIONS = (
    "top left", "top", "top right",
    "left", "center", "right",
    "bottom left", "bottom", "bottom right",
)  # fmt: skip
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
Split = Literal["pretrain", "train", "test"]
DIGIT_ROWS = {"pretrain": (0, 900), "train": (900, 1350), "test": (1350, 1797)}
"""Rows of ``load_digits``: pretraining, training and tests share no handwriting."""


@dataclass(frozen=True, slots=True)
class Thing:
    """Content of a cell. ``kind``: shape, texture, bar, digit or letter."""

    kind: str
    name: str
    """Shape or texture name, ``bar``, a number word, or a letter."""
    colour: str = ""
    size: str = ""
    sample: int = 0
    """For a digit: row of ``load_digits``."""

    def words(self) -> str:
        """The thing's name in a caption."""
        if self.kind in ("digit", "letter"):
            return f"{self.kind} {self.name}"
        return " ".join(word for word in (self.size, self.colour, self.name) if word)


Scene = tuple[Thing | None, ...]
"""Nine cells in raster order."""


def pick(rng: np.random.Generator, names: Sequence[str]) -> str:
    """One of ``names``, uniformly."""
    return names[int(rng.integers(len(names)))]


def coloured(rng: np.random.Generator, names: tuple[str, ...] = SHAPES) -> Thing:
    """A shape or texture of random colour and size."""
    name = pick(rng, names)
    kind = "texture" if name in TEXTURES else "shape"
    return Thing(kind, name, pick(rng, COLOUR_NAMES), pick(rng, SIZES))


def digit(rng: np.random.Generator, split: Split) -> Thing:
    """A handwritten digit of ``split``."""
    sample = int(rng.integers(*DIGIT_ROWS[split]))
    return Thing("digit", NUMBERS[int(_digits()[1][sample])], sample=sample)


def letter(rng: np.random.Generator) -> Thing:
    """A printed letter."""
    return Thing("letter", pick(rng, LETTERS))


def scatter(rng: np.random.Generator, things: list[Thing]) -> Scene:
    """``things`` in random cells."""
    cells: list[Thing | None] = [None] * GRID**2
    for place, thing in zip(rng.permutation(GRID**2), things, strict=False):
        cells[place] = thing
    return tuple(cells)


def written(rng: np.random.Generator, things: list[Thing]) -> Scene:
    """``things`` (at most three) side by side in one row."""
    cells: list[Thing | None] = [None] * GRID**2
    start = GRID * int(rng.integers(GRID)) + int(rng.integers(GRID - len(things) + 1))
    cells[start : start + len(things)] = things
    return tuple(cells)


def chart(rng: np.random.Generator) -> Scene:
    """Three bars of different colours, one to three cells high, one of them the only highest."""
    colours = rng.permutation(COLOUR_NAMES)[:GRID]
    highest = int(rng.integers(GRID))
    top = int(rng.integers(2, GRID + 1))
    heights = [top if i == highest else int(rng.integers(1, top)) for i in range(GRID)]
    cells: list[Thing | None] = [None] * GRID**2
    for column, (colour, height) in enumerate(zip(colours, heights, strict=True)):
        for level in range(height):
            cells[GRID * (GRID - 1 - level) + column] = Thing("bar", "bar", str(colour))
    return tuple(cells)


def draw(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Paint ``scene``: uint8 [48, 48, 3], with jitter, shading and noise from ``rng``."""
    picture = np.full((SIDE, SIDE, 3), rng.uniform(215, 250), dtype=np.float32)
    for place, thing in enumerate(scene):
        if thing is None:
            continue
        mask = _mask(thing)
        if thing.kind != "bar":
            mask = _shifted(mask, *rng.integers(-1, 2, 2).tolist())
        ink = np.asarray(COLOURS.get(thing.colour, (35, 35, 35)), np.float32)
        ink = ink * rng.uniform(0.85, 1.1)
        row, column = divmod(place, GRID)
        view = picture[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
        view += mask[..., None] * (ink - view)
    picture += 6 * rng.standard_normal(picture.shape, dtype=np.float32)
    return np.clip(picture, 0, 255).astype(np.uint8)


def _shifted(mask: np.ndarray, down: int, right: int) -> np.ndarray:
    """``mask`` moved by at most a pixel in each direction; what leaves the cell is cut off."""
    padded = np.pad(mask, 1)
    return padded[1 - down : 1 - down + CELL, 1 - right : 1 - right + CELL]


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    found = load_digits()
    return found.images.astype(np.float32) / 16, found.target


def _mask(thing: Thing) -> np.ndarray:
    if thing.kind == "digit":
        return np.kron(_digits()[0][thing.sample], np.ones((2, 2), np.float32))
    return _drawn(thing.kind, thing.name, thing.size)


@cache
def _drawn(kind: str, name: str, size: str) -> np.ndarray:
    """Coverage of one thing, float32 [16, 16] in [0, 1], drawn at four times the size."""
    scale, side = 4, CELL * 4
    canvas = Image.new("L", (side, side))
    pen = ImageDraw.Draw(canvas)
    radius = (7.5 if size == "large" else 4.5) * scale
    low, high = side / 2 - radius, side / 2 + radius
    box = (low, low, high, high)
    if kind == "letter":
        pen.text((side / 2, side / 2), name, 255, ImageFont.load_default(58), anchor="mm")
    elif kind == "bar":
        pen.rectangle((10, 0, side - 10, side), 255)
    elif name == "circle":
        pen.ellipse(box, 255)
    elif name == "square":
        pen.rectangle(box, 255)
    elif name == "triangle":
        pen.polygon([(side / 2, low), (high, high), (low, high)], 255)
    elif name == "cross":
        width = radius * 0.35
        pen.rectangle((side / 2 - width, low, side / 2 + width, high), 255)
        pen.rectangle((low, side / 2 - width, high, side / 2 + width), 255)
    elif name == "ring":
        pen.ellipse(box, outline=255, width=int(radius * 0.35))
    elif name == "star":
        pen.regular_polygon((side / 2, side / 2, radius), 3, 0, 255)
        pen.regular_polygon((side / 2, side / 2, radius), 3, 180, 255)
    else:
        _texture(pen, name, box, scale)
    return np.asarray(canvas.resize((CELL, CELL), Image.Resampling.BOX), np.float32) / 255


def _texture(
    pen: ImageDraw.ImageDraw, name: str, box: tuple[float, float, float, float], scale: int
) -> None:
    """Fill ``box`` with horizontal stripes, checks or dots of three pixels."""
    low, _, high, _ = box
    step = 3 * scale
    for i, y in enumerate(np.arange(low, high, step)):
        for j, x in enumerate(np.arange(low, high, step)):
            tile = (x, y, min(x + step, high), min(y + step, high))
            if name == "dots":
                pen.ellipse((x + 2, y + 2, x + step - 2, y + step - 2), 255)
            elif (name == "stripes" and i % 2 == 0) or (name == "checks" and (i + j) % 2 == 0):
                pen.rectangle(tile, 255)
