"""Padding and shrinking in strips gives the processor's own bytes, and holds no square."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coincide.models import squares
from coincide.models.squares import shrink_large

ROOT = Path(__file__).resolve().parents[2]
MEAN = [0.48145466, 0.4578275, 0.40821073]


def processor(side: int = 56) -> object:
    from types import SimpleNamespace

    from transformers import LlavaImageProcessorPil

    images = LlavaImageProcessorPil(
        do_pad=True,
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=MEAN,
    )
    return SimpleNamespace(image_processor=images)


def picture(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width * height)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(69, 1200), (1200, 69), (301, 700), (700, 301), (1, 400)])
@pytest.mark.parametrize("resample", [2, 3, 1])
def test_the_bytes_are_those_of_the_processor(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], resample: int
) -> None:
    monkeypatch.setattr(squares, "LARGE", 128)
    made = processor()
    images = made.image_processor  # type: ignore[attr-defined]
    images.resample = resample
    whole = images([picture(*size)], return_tensors="np")["pixel_values"]
    small = shrink_large(picture(*size), made)
    assert small.size == (56, 56)
    np.testing.assert_array_equal(images([small], return_tensors="np")["pixel_values"], whole)


def test_other_pictures_and_processors_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made = processor()
    small = picture(300, 200)
    assert shrink_large(small, made) is small
    monkeypatch.setattr(squares, "LARGE", 128)
    made.image_processor.do_pad = False  # type: ignore[attr-defined]
    assert shrink_large(small, made) is small


PEAK = """
import resource
from PIL import Image
from coincide.models.squares import pad_and_resize
picture = Image.new("RGB", (690, 12000), "red")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
pad_and_resize(picture, 336, (122, 116, 104), 3)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_long_screenshot_takes_no_square_of_memory() -> None:
    """12,000 x 12,000 pixels would be 576 MB in Pillow alone."""
    found = subprocess.run(
        [sys.executable, "-c", PEAK], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert int(found.stdout) < 150_000, "kB"
