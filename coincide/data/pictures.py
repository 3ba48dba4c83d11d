"""Collect the pictures of a row while its turns are read: their places and paths."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from coincide.data.fault import BadRow, short
from coincide.data.inline import PictureWriter, as_bytes, decode_inline, is_base64, name_of
from coincide.data.parse import IMAGE

PATHS = ("path", "url", "image", "image_url", "file")
"""Fields of a picture given as an object, one of which is its path."""
IMAGES = re.compile(IMAGE)
TAG = re.compile(r"<image>|<img>\s*([^<>\n]+?)\s*</img>")


@dataclass
class Pictures:
    """The pictures of a row, collected while its turns are read."""

    root: Path
    keep: PictureWriter
    named: Mapping[str, Any] = field(default_factory=dict)
    """MiniCPM-V: tag -> the picture that it stands for."""
    tag: re.Pattern[str] = field(default_factory=lambda: TAG)
    slots: list[str | int | None] = field(default_factory=list)
    """Paths in the order of their places; None: the next of the pictures that the row lists, a
    number: the one at that place among them."""
    by_part: bool = False
    """A part without a path stands for a picture that the row lists, so each of these needs a
    part."""

    def add(self, image: Any) -> str:
        """Add a picture, given by path or content; returns its placeholder."""
        self.slots.append(path_of(image, self.root, self.keep))
        return IMAGE

    def with_placeholders(self, text: str) -> str:
        """``text`` with ``<image>`` in the place of every picture's tag."""
        if self.named:
            tags = "|".join(map(re.escape, self.named))
            return re.sub(f"<image>|{tags}", self._tag, text)
        return self.tag.sub(self._tag, text) if "<im" in text else text

    def _tag(self, found: re.Match[str]) -> str:
        if found[0] == IMAGE:
            self.slots.append(None)
            return IMAGE
        return self.add(self.named[found[0]] if self.named else found[1])


def path_of(image: Any, root: Path, keep: PictureWriter) -> str:
    """The path of a picture relative to ``root``; one that is embedded is passed to ``keep``.

    Raises BadRow for what is no path and no picture.
    """
    found = image
    if isinstance(found, Mapping):
        found = {key: value for key, value in found.items() if value is not None}
        for name in ("bytes", "base64", "data"):
            if found.get(name):
                return _kept(as_bytes(found[name]), keep)
        found = next((found[name] for name in PATHS if name in found), None)
    if isinstance(found, (bytes, bytearray)):
        return _kept(bytes(found), keep)
    if not isinstance(found, str) or not found:
        raise BadRow("wrong image field", f"expected a path, got {short(image)}")
    if found[:5].lower() == "data:" or is_base64(found):
        return _kept(decode_inline(found), keep)
    text = found.removeprefix("file://")
    if re.match(r"[a-z][a-z0-9+.-]+://|https?:", text, re.IGNORECASE):
        raise BadRow("image that is no file", f"{short(text)}; save it below data.images")
    path = PurePosixPath(text)
    if path.is_absolute() and path.is_relative_to(root.absolute()):
        return str(path.relative_to(root.absolute()))
    return text


def _kept(content: bytes, keep: PictureWriter) -> str:
    name = name_of(content)
    keep(name, content)
    return name
