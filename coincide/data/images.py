"""Read images safely: a function that returns an RGB picture or says what is wrong with the file.

A picture is a file below the image root, or lies in a cell of a Parquet shard below it
(:mod:`coincide.data.cells`); :func:`open_picture` opens either.

One rule makes a picture RGB, in training, in feature passes and in evaluation, which calls
:func:`to_rgb` on the pictures of benchmarks before their tasks see them:

- EXIF orientation is applied, so the picture is upright as in a viewer;
- transparency (RGBA, LA, PA, a transparent colour or palette entry) is dropped: each pixel keeps
  its colour, even where it is fully transparent;
- 16-bit grey, and 32-bit integers with values above 255, keep the upper byte of 16 bits; other
  32-bit grey, floating point included, is clipped to 0..255 (Pillow alone clips 16 bits to white);
- CMYK, palette, grey, bilevel and YCbCr are converted by Pillow;
- of animations the first frame is used.

LLaVA's loader is ``Image.open(...).convert("RGB")``: it ignores orientation and clips 16-bit grey;
for all other pictures the pixels are the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING

from coincide.data.cells import DamagedShard, NoPicture, cell_of, file_of, read_cell
from coincide.schema import UserError

if TYPE_CHECKING:
    from PIL import Image

JPEG = b"\xff\xd8"
"""How a JPEG begins, which has neither transparency nor more than 8 bits."""
MAX_PIXELS = 89_478_485
"""Pillow's own limit. Larger pictures are refused without decoding: each would take 270 MB or
more."""


class BadImage(UserError):
    """An image that a policy may drop or replace by a blank one."""


class MissingImage(BadImage):
    """The file does not exist."""


class CorruptImage(BadImage):
    """The file does not decode, or the picture is too large for memory."""


class UnsafePath(UserError):
    """A path that leads outside the image root. No policy accepts it."""


def load_image(root: Path, relative: str, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture at ``root/relative`` as RGB.

    Raises :class:`UnsafePath`, :class:`MissingImage` or :class:`CorruptImage`, naming the file.
    """
    return decode(root, relative, max_pixels=max_pixels)[0]


def decode(
    root: Path, relative: str, *, max_pixels: int = MAX_PIXELS
) -> tuple[Image.Image, tuple[str, ...]]:
    """:func:`load_image`, and in words what was converted or unusual about the file.

    Raises as it does.
    """
    from PIL import Image, UnidentifiedImageError

    stream = open_picture(root, relative)
    try:
        with stream, whole_files_only(), Image.open(stream) as picture:
            _check_size(picture.size, relative, max_pixels)
            converted = conversions(picture, relative)
            return to_rgb(picture), converted
    except UnidentifiedImageError as error:
        with open_picture(root, relative) as again:
            what = _what_it_is(again)
        raise CorruptImage(f"image {relative!r} under {root}: {what}.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        with open_picture(root, relative) as again:
            _check_size(_claimed_size(again), relative, max_pixels)
        raise CorruptImage(f"image {relative!r} under {root} is refused: {error}") from error
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError, IndexError) as error:
        raise CorruptImage(f"image {relative!r} under {root} does not decode: {error}.") from error


def size_of(root: Path, relative: str) -> tuple[int, int]:
    """Width and height of the picture that :func:`load_image` returns, from the file's header.

    Raises like :func:`load_image` for a file that is missing or not an image.
    """
    from PIL import Image

    stream = open_picture(root, relative)
    try:
        with stream, Image.open(stream) as picture:
            width, height = picture.size
            sideways = picture.getexif().get(0x0112, 1) >= 5
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise CorruptImage(f"image {relative!r} under {root} does not open: {error}.") from error
    return (height, width) if sideways else (width, height)


def open_picture(root: Path, relative: str) -> IO[bytes]:
    """The encoded picture at ``root/relative``, a file or a cell of a shard, to be read once.

    Raises :class:`UnsafePath`; :class:`MissingImage` if there is no such file or cell;
    :class:`CorruptImage` for a file that cannot be opened and a damaged shard.
    """
    path, cell = safe_path(root, relative), cell_of(relative)
    if not path.is_file():
        raise MissingImage(f"image {relative!r}: no such file under {root}.")
    try:
        return BytesIO(read_cell(path, cell)) if cell else path.open("rb")
    except NoPicture as error:
        raise MissingImage(f"image {relative!r} under {root}: {error}.") from error
    except DamagedShard as error:
        raise CorruptImage(
            f"image {relative!r}: the shard {path} cannot be read: {error}. A download that broke "
            "off looks like this: fetch it again."
        ) from error
    except OSError as error:
        raise CorruptImage(f"image {relative!r} under {root} does not open: {error}.") from error


@contextmanager
def whole_files_only() -> Iterator[None]:
    """In this context truncated files are refused, even if another library lets Pillow fill them
    with grey.
    """
    from PIL import ImageFile

    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def safe_path(root: Path, relative: str) -> Path:
    """``root/relative`` with symlinks resolved; UnsafePath if it ends outside ``root``.

    For a picture in a shard, the shard. ``root`` itself may be a link, and links inside it may
    point to other places inside it.
    """
    why = unsafe_reason(relative)
    if why:
        raise UnsafePath(
            f"image {relative!r}: {why}. Paths must be relative to the image root {root} and stay "
            "below it."
        )
    home = os.path.realpath(root)
    path = os.path.realpath(os.path.join(home, file_of(relative)))  # noqa: PTH118
    if not path.startswith(home.rstrip(os.sep) + os.sep):
        raise UnsafePath(
            f"image {relative!r}: a symbolic link leads out of the image root {root}, to {path}. "
            "Copy or mount the images below the root, or set the root to where they are."
        )
    return Path(path)


def unsafe_reason(relative: str) -> str:
    """Why the text of ``relative`` alone makes it unsafe; empty if it does not."""
    if not relative or "\0" in relative:
        return "an empty path, or one with a NUL character"
    if relative.startswith(("/", "\\", "~")) or relative[1:3] in (":\\", ":/"):
        return "an absolute path"
    if ".." in file_of(relative).replace("\\", "/").split("/"):
        return "it climbs out with '..'"
    return ""


MODES = {
    "1": "bilevel",
    "L": "grey",
    "LA": "grey",
    "P": "palette",
    "CMYK": "CMYK",
    "YCbCr": "YCbCr",
    "I": "32-bit grey",
    "F": "32-bit grey",
}
SUFFIXES = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".gif": "GIF", ".webp": "WEBP"}


def conversions(picture: Image.Image, name: str) -> tuple[str, ...]:
    """What :func:`to_rgb` will change in ``picture``, and a format that does not match its name."""
    mode = "16-bit grey" if picture.mode.startswith("I;16") else MODES.get(picture.mode, "")
    expected = SUFFIXES.get(Path(name).suffix.lower(), picture.format)
    format_of = {"MPO": "JPEG"}.get(picture.format or "", picture.format)
    found = {
        mode: bool(mode),
        "transparency": picture.has_transparency_data,
        "EXIF orientation": picture.getexif().get(0x0112, 1) != 1,
        "animation": getattr(picture, "is_animated", False) and format_of != "JPEG",
        f"{format_of} named {Path(name).suffix}": format_of != expected,
    }
    return tuple(what for what, there in found.items() if there)


def to_rgb(picture: Image.Image) -> Image.Image:
    """The first frame of ``picture`` as RGB, by the module's rules."""
    from PIL import ImageOps

    picture.seek(0)
    upright = ImageOps.exif_transpose(picture)
    if upright.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I", "F"):
        upright = _eight_bits(upright)
    upright.info.pop("transparency", None)
    return upright if upright.mode == "RGB" else upright.convert("RGB")


def redrawn(path: Path) -> bool:
    """Whether versions before 2026-11-29 may have made other RGB pixels of the file: by its header
    it has transparency (which they laid on white), or grey of more than 8 bits (which they scaled).

    What trained on such a picture then is not what trains on it now. False for no image.
    """
    from PIL import Image

    with path.open("rb") as handle:
        if handle.read(2) == JPEG:
            return False
        with suppress(Exception), Image.open(handle) as picture:
            return picture.has_transparency_data or picture.mode.startswith(("I", "F"))
    return False


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Grey with more than 8 bits converted to 8 bits.

    16-bit modes, and 32-bit ones with 16-bit values (as Pillow reads some PNG and TIFF files), keep
    their upper byte; other ranges are clipped to 0..255.
    """
    import numpy as np
    from PIL import Image

    values = np.asarray(picture).astype(np.float64)
    if picture.mode != "F" and (picture.mode != "I" or values.max(initial=0) > 255):
        values = np.floor(values / 256)
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def _check_size(size: tuple[int, int], relative: str, max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise CorruptImage(
            f"image {relative!r} is refused undecoded: {width} x {height} pixels, more than the "
            f"{max_pixels:,} allowed (a decompression bomb, or a scan to be shrunk first)."
        )


def _claimed_size(stream: IO[bytes]) -> tuple[int, int]:
    """Width and height in the header, if Pillow refuses to open it; (0, 0) if unknown."""
    from PIL import Image

    head = stream.read(16)
    for factory, accepts in Image.OPEN.values():
        if accepts and accepts(head) is True:
            stream.seek(0)
            with suppress(Exception):
                return factory(stream, "").size
    return 0, 0


def _what_it_is(stream: IO[bytes]) -> str:
    """In words, what a file that is not an image contains."""
    head = stream.read(512)
    if not head:
        return "a file of zero bytes"
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return "an HTML or XML page saved under an image's name, probably a failed download"
    return f"no image format that Pillow knows (it begins with {head[:8]!r})"
