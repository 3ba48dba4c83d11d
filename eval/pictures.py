"""Pictures of benchmarks are decoded by the rule of ``coincide.data.images``, as training's are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import datasets
from PIL import Image, UnidentifiedImageError

from coincide.data.images import CorruptImage, to_rgb, whole_files_only

_decode: Callable[..., Any] = datasets.Image.decode_example


def decode_by_one_rule() -> None:
    """Let the ``datasets`` library of this process decode by :func:`decoded`.

    lmms-eval's tasks call ``convert("RGB")`` on what they find in a document, which clips 16-bit
    grey to white; with this they find RGB pictures. A truncated file is refused, where lmms-eval
    has it filled with grey.
    """
    datasets.Image.decode_example = decoded


def decoded(feature: datasets.Image, value: Any, token_per_repo_id: Any = None) -> Any:
    """``value`` (bytes, or a path to a file) as an RGB picture.

    Raises :class:`CorruptImage` for one that does not decode.
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
