"""Decode pictures of benchmarks by the same rule as training pictures
(``coincide.data.images``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import datasets
from PIL import Image, UnidentifiedImageError

from coincide.data.images import CorruptImage, to_rgb, whole_files_only

_decode: Callable[..., Any] = datasets.Image.decode_example


def decode_by_one_rule() -> None:
    """Let the ``datasets`` library decode by :func:`decode_picture` in this process.

    lmms-eval's tasks call ``convert("RGB")`` on a document's pictures, which clips 16-bit grey to
    white; here they get RGB pictures. A truncated file is refused, where lmms-eval fills it with
    grey.
    """
    datasets.Image.decode_example = decode_picture


def decode_picture(feature: datasets.Image, value: Any, token_per_repo_id: Any = None) -> Any:
    """``value`` (bytes, or a path to a file) as an RGB picture; replaces ``Image.decode_example``.

    Raises :class:`CorruptImage` if it does not decode.
    """
    try:
        with whole_files_only():
            found = _decode(replace(feature, mode=None), value, token_per_repo_id)
            return to_rgb(found) if isinstance(found, Image.Image) else found
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, MemoryError) as error:
        path = value.get("path") if isinstance(value, dict) else value
        named = f"the picture {path}" if path else "the picture"
        unknown = isinstance(error, UnidentifiedImageError)
        why = "no image format that Pillow knows" if unknown else error
        raise CorruptImage(f"{named} does not decode: {why}") from error
