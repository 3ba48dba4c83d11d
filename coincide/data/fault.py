"""A row that cannot be used, and its fault in words."""

from __future__ import annotations

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
