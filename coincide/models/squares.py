"""Pad to a square and shrink in strips: the image processor's result without its memory use.

LLaVA pads a picture to a square of its longer side before it shrinks it: 690 x 12,000 pixels become
12,000 x 12,000, in up to four copies. Pillow resizes along rows first, then along columns, with
8-bit values in between; so rows can be padded and shrunk strip by strip, and only the narrow result
is held. Strips of padding alone are computed once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

LARGE = 2048
"""Pictures with a longer side than this are treated here: a square of 2,048 takes 13 MB."""
STRIP = 256
"""Rows of a strip."""


def shrink_large(picture: Image, processor: Any) -> Image:
    """``picture`` (RGB); a large one is padded to a square and shrunk as the processor would do.

    The processor leaves the result unchanged. Pictures that it does not pad are returned as they
    are.
    """
    images = processor.image_processor
    side = _side(images)
    if side is None or max(picture.size) <= max(LARGE, side) or picture.width == picture.height:
        return picture
    mean = images.image_mean
    colour = tuple(int(255 * value) for value in mean) if mean else (0, 0, 0)
    return pad_and_resize(picture, side, colour, images.resample)


def _side(images: Any) -> int | None:
    """The side to which ``images`` shrinks a padded square; None if it works differently."""
    pads = getattr(images, "do_pad", False) and hasattr(images, "pad_to_square")
    size = getattr(images, "size", None)
    plain = getattr(size, "longest_edge", None) is None
    side = getattr(size, "shortest_edge", None)
    resamples = getattr(images, "resample", None) is not None
    return int(side) if pads and images.do_resize and plain and side and resamples else None


def pad_and_resize(picture: Image, side: int, colour: tuple[int, ...], resample: int) -> Image:
    """``picture`` centred in a square of its longer side filled with ``colour``, resized.

    The result is ``side`` x ``side``, by Pillow's filter ``resample``.
    """
    from PIL import Image

    width, height = picture.size
    longer = max(width, height)
    left, top = (longer - width) // 2, (longer - height) // 2
    rule = Image.Resampling(resample)
    alone = Image.new("RGB", (longer, 1), colour).resize((side, 1), rule)
    narrow = alone.resize((side, longer), Image.Resampling.NEAREST)
    for start in range(0, height, STRIP):
        rows = min(STRIP, height - start)
        strip = Image.new("RGB", (longer, rows), colour)
        strip.paste(picture.crop((0, start, width, start + rows)), (left, 0))
        narrow.paste(strip.resize((side, rows), rule), (0, top + start))
    return narrow.resize((side, side), rule)
