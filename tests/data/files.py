"""Small datasets made on the spot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image


def turn(role: str, value: str) -> dict[str, str]:
    return {"from": role, "value": value}


def row(identity: Any = "a", image: Any = "pics/a.png", question: str = "<image>\nwhat?", **more):
    """A LLaVA row; ``identity`` or ``image`` None leaves the field out."""
    value = {"conversations": [turn("human", question), turn("gpt", "red")], **more}
    if identity is not None:
        value["id"] = identity
    if image is not None:
        value["image"] = image
    return value


def text_row(identity: Any = "t", **more):
    return row(identity, None, "hello", **more)


def write(root: Path, rows: Any, images: tuple[str, ...] = ("pics/a.png",)) -> Path:
    """Write ``root/train.json`` and the pictures; return the annotation file."""
    for name in images:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), "red").save(root / name)
    path = root / "train.json"
    path.write_text(rows if isinstance(rows, str) else json.dumps(rows), encoding="utf-8")
    return path
