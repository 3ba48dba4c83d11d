"""A row that cannot be used, and how its fault is told."""

from __future__ import annotations

from typing import Any


class BadRow(Exception):
    """A row that cannot be trained on: ``kind`` is counted, ``detail`` shown once."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail


def short(value: Any) -> str:
    """``value`` for a message: inert, and not longer than a line."""
    shown = ascii(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
