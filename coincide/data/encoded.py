"""Encoded pictures in a field: bytes, base64 or a data: URI, told by their first bytes."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

from coincide.data.fault import BadRow, short

KIND = "wrong inline picture"
_SUFFIXES = (
    (b"\x89PNG\r\n\x1a\n", ".png"), (b"\xff\xd8\xff", ".jpg"), (b"GIF8", ".gif"),
    (b"BM", ".bmp"), (b"II*\0", ".tiff"), (b"MM\0*", ".tiff"),
)  # fmt: skip
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")
_URI = re.compile(r"data:(?P<type>[\w.+-]+/[\w.+-]+)?(?:;[\w.+=-]+)*?;base64,", re.IGNORECASE)
_LEAST = 40
"""Length in base64 of the smallest possible picture; a shorter text is a path."""


def suffix_of(content: bytes) -> str:
    """The file suffix for a picture, by its first bytes; empty for an unknown format."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return ".webp"
    if content[4:12] in (b"ftypavif", b"ftypheic"):
        return f".{content[8:12].decode()}"
    return next((suffix for magic, suffix in _SUFFIXES if content.startswith(magic)), "")


def is_base64(text: str) -> bool:
    """Whether ``text`` is a picture in base64 without ``data:`` in front, and not a path."""
    if len(text) < _LEAST or not _BASE64.fullmatch(text):
        return False
    try:
        head = base64.b64decode("".join(text[:64].split())[:32], validate=True)
    except (binascii.Error, ValueError):
        return False
    return suffix_of(head) not in ("", ".bmp")


def decode_inline(text: str) -> bytes:
    """The bytes of a data: URI or base64 text. Raises :class:`BadRow` for anything else."""
    found = _URI.match(text)
    if text[:5].lower() == "data:":
        kind = found["type"] if found else None
        if not found or (kind and not kind.lower().startswith("image/")):
            raise BadRow(KIND, f"expected data:image/...;base64, got {short(text)}")
        text = text[found.end() :]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRow(KIND, f"no base64 ({error}): {short(text)}") from None


def as_bytes(value: Any) -> bytes:
    """``value`` of a field ``bytes`` as bytes.

    It may be bytes, base64, or a JSON list of numbers.
    Raises BadRow for anything else.
    """
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, str):
        return decode_inline(value)
    try:
        return bytes(value)
    except (TypeError, ValueError):
        raise BadRow(KIND, f"expected bytes or base64, got {short(value)}") from None
