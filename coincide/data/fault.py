"""A row that cannot be used, and its fault in words."""

from __future__ import annotations

import re
from typing import Any


class BadRow(Exception):
    """A row that cannot be trained on: rows are counted by ``kind``.

    ``detail`` is for the first one.
    """

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail


def short(value: Any) -> str:
    """``value`` for a message: inert and at most a line long."""
    shown = ascii(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def plain_name(key: Any) -> str:
    """A field's name in lower case with underscores: ``loss_weight`` for ``lossWeight`` and for
    ``loss weight``; empty for what is no text.
    """
    if not isinstance(key, str):
        return ""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|[-\s]+", "_", key.strip()).lower()
