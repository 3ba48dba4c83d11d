"""Rows with what real files have at their edges, all of which the product trains on.

``make(root)`` writes ``root/odd.json`` and its pictures. Ids are of two types and one stands twice;
text-only rows say so in four ways; pictures come at the end, in two turns, grey, transparent, with
a blank and an umlaut in the path; some conversations begin with a system prompt or an answer;
``<video>`` and ``<audio>`` are words; one answer is marked as not to be learnt.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

ANNOTATIONS = "odd.json"
PLAIN = 16
"""Ordinary rows, of the pictures ``p/0.png`` to ``p/15.png`` in sizes of their own."""
SYSTEM = "You answer in one word."


def rows() -> list[dict[str, Any]]:
    """The rows in file order; each text stands in one row alone."""
    plain = [_row(i, f"p/{i}.png", f"<image>\nWhat is in picture {i}?") for i in range(PLAIN)]
    for name in (3, 5, 7):
        plain[name]["id"] = f"plain_{name}"
    grey, clear, spaced = "p/grey.png", "p/clear.png", "p/ein Bild ö.png"
    return [
        *plain,
        _row("two", ["p/0.png", "p/1.png"], "<image>\n<image>\nWhich of the two is larger?"),
        _row("later", ["p/2.png", "p/3.png"], "<image>\nAnd this?", more="<image>\nAnd that?"),
        _row("none", ..., "No picture, no key?"),
        _row("null", None, "A picture that is null?"),
        _row("empty_list", [], "An empty list?"),
        _row("empty_text", "", "An empty path?"),
        _row("end", "p/4.png", "What stands at the end?\n<image>"),
        _row("system", "p/5.png", "<image>\nWith a prompt?", system=SYSTEM),
        _row("system_text", ..., "With a prompt and no picture?", system=SYSTEM),
        _row("greeting", ..., "Who begins?", opening="Hello, I begin."),
        _row(None, "p/6.png", "<image>\nNo id?"),
        _row("twice", "p/7.png", "<image>\nFirst of two?"),
        _row("twice", "p/8.png", "<image>\nSecond of two?", source="mine", note={"x": [1]}),
        _row("grey", grey, "<image>\nGrey?"),
        _row("clear", clear, "<image>\nClear?"),
        _row("spaced", spaced, "<image>\nSpaced?"),
        _row("words", ..., "What do <video> and <audio> mean in HTML?"),
        _row("marked", "p/9.png", "<image>\nMarked?", more="And learnt?", unlearnt=True),
    ]


def make(root: Path) -> Path:
    """Write annotations and pictures below ``root``; return the annotation file."""
    (root / "p").mkdir(parents=True, exist_ok=True)
    for i in range(PLAIN):
        colour = (16 * i, 255 - 16 * i, 40)
        Image.new("RGB", (20 + i, 40 - i), colour).save(root / f"p/{i}.png")
    Image.new("L", (30, 30), 90).save(root / "p/grey.png")
    Image.new("RGBA", (30, 20), (200, 0, 0, 120)).save(root / "p/clear.png")
    Image.new("RGB", (24, 24), "blue").save(root / "p/ein Bild ö.png")
    path = root / ANNOTATIONS
    path.write_text(json.dumps(rows(), ensure_ascii=False, indent=1), encoding="utf-8")
    return path


def _row(
    identity: Any,
    image: Any,
    question: str,
    *,
    more: str = "",
    system: str = "",
    opening: str = "",
    unlearnt: bool = False,
    **extra: Any,
) -> dict[str, Any]:
    """A row; ``image`` ``...`` leaves the key out, ``identity`` None as well."""
    said = [{"from": "human", "value": question}, _answer(question)]
    if more:
        said += [{"from": "human", "value": more}, _answer(more)]
    if unlearnt:
        said[1]["loss"] = False
    if opening:
        said.insert(0, {"from": "gpt", "value": opening})
    if system:
        said.insert(0, {"from": "system", "value": system})
    record: dict[str, Any] = {} if identity is None else {"id": identity}
    if image is not ...:
        record["image"] = image
    return {**record, "conversations": said, **extra}


def _answer(question: str) -> dict[str, Any]:
    words = question.replace("<image>", "").replace("<", "").replace(">", "").split()
    return {"from": "gpt", "value": f"answer {len(question)} {words[-1]}"}
