"""``data=messages``: the messages forms of other trainers, read as they stand.

A JSON list or JSON lines of objects; the conversation is under ``messages`` or ``conversations``:

- OpenAI chat: ``{"role": "user", "content": "..."}``, content also as parts ``{"type": "text",
  "text": ...}`` and ``{"type": "image_url", "image_url": {"url": ...}}`` (or ``"type": "image"``);
- ShareGPT and LLaMA-Factory: ``{"from": "human", "value": "..."}``, images under ``images``,
  ``<image>`` in the text, a system prompt under ``system``;
- ms-swift: ``messages`` with ``images`` (paths, or ``{"path": ...}``); where the text has no
  ``<image>`` at all, the images stand before the first question, as ms-swift puts them.

Every turn and image comes through in its place. System prompts are left out and counted, as of
LLaVA json: the template has its own. Tool calls, images by URL or inline are faults of their row.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from coincide.data.llava_json import LlavaJson
from coincide.data.parse import IMAGE, BadRow
from coincide.data.rows import scan
from coincide.files import write_atomic
from coincide.schema import Dataset
from coincide.store import Build

ROLES = {
    "user": "human",
    "human": "human",
    "assistant": "gpt",
    "gpt": "gpt",
    "system": "system",
}
TRAIN = "train.json"
"""The rows as LLaVA json, in the artifact: what subsets are cut from."""


@dataclass(frozen=True)
class Messages(LlavaJson):
    """A file of messages and the folder of its images."""

    form: ClassVar[str] = "messages"

    name: str = "messages"

    def rows(self, annotations: Path) -> Iterable[tuple[int, str, Any]]:
        """``(row, LLaVA json, value)``, or ``(row, text, fault)``."""
        return read_messages(annotations, Path(self.images))

    def sources_rule(self) -> dict[str, Any]:
        """How sources are told, and that the rows were messages, for the key."""
        return {"source_field": self.source_field, "form": self.form}

    def open(self, artifact: Path) -> Dataset:
        """The dataset, whose subsets are cut from the artifact's LLaVA json."""
        return replace(super().open(artifact), annotations=artifact / TRAIN)

    def _build(self, build: Build) -> dict[str, Any]:
        facts = super()._build(build)
        texts = (text for _, text, _ in self.rows(Path(self.annotations)))
        write_atomic(build.dir / TRAIN, partial(_write_list, texts))
        return facts


def read_messages(path: Path, image_root: Path) -> Iterator[tuple[int, str, Any]]:
    """Yield ``(row, text, value)`` for each row of ``path``; a row that cannot be said in LLaVA
    json comes as the :class:`BadRow`, its text as it stands.
    """
    for row, text, value in scan(path):
        try:
            record = to_llava(value, image_root)
            yield row, json.dumps(record), record
        except BadRow as fault:
            yield row, text, fault


def to_llava(value: Any, image_root: Path) -> dict[str, Any]:
    """A row of messages as LLaVA json, its other fields kept. Raises :class:`BadRow`."""
    if not isinstance(value, dict):
        raise BadRow("not an object", f"got {ascii(value)[:60]}")
    messages = value.get("messages", value.get("conversations"))
    if not isinstance(messages, list) or not messages:
        raise BadRow("no conversation", "neither messages nor conversations is a list with turns")
    inline: list[Any] = []
    turns = [_turn(number, message, inline) for number, message in enumerate(messages)]
    listed = value.get("images", value.get("image")) or []
    images = [*(listed if isinstance(listed, list) else [listed]), *inline]
    if images and not any(IMAGE in turn["value"] for turn in turns):
        _put_in_front(turns, len(images))
    if isinstance(value.get("system"), str) and value["system"]:
        turns.insert(0, {"from": "system", "value": value["system"]})
    kept = {k: v for k, v in value.items() if k not in ("messages", "images", "system")}
    paths = [_path(image, image_root) for image in images]
    return {**kept, **({"image": paths} if paths else {}), "conversations": turns}


def _turn(number: int, message: Any, images: list[Any]) -> dict[str, str]:
    """One turn; images among its parts are added to ``images``."""
    if not isinstance(message, dict):
        raise BadRow("malformed turn", f"turn {number} is {ascii(message)[:60]}")
    role = message.get("role", message.get("from"))
    if not isinstance(role, str) or role not in ROLES:
        raise BadRow("unknown role", f"turn {number} is from {ascii(role)[:60]}")
    if message.get("tool_calls"):
        raise BadRow("tool call", f"turn {number} calls a tool")
    content = message.get("content", message.get("value"))
    if isinstance(content, list):
        content = "\n".join(_part(number, part, images) for part in content)
    if not isinstance(content, str):
        raise BadRow("malformed turn", f"turn {number}: expected text or a list of parts")
    return {"from": ROLES[role], "value": content}


def _part(number: int, part: Any, images: list[Any]) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        text: str = part["text"]
        return text
    if kind in ("image", "image_url"):
        found = part.get("image_url", part.get("image", part.get("path")))
        images.append(found.get("url") if isinstance(found, dict) and "url" in found else found)
        return IMAGE
    raise BadRow("malformed turn", f"turn {number}: a part of type {ascii(kind)[:60]}")


def _put_in_front(turns: list[dict[str, str]], images: int) -> None:
    for turn in turns:
        if turn["from"] == "human":
            turn["value"] = f"{IMAGE}\n" * images + turn["value"]
            return


def _path(image: Any, root: Path) -> str:
    """The path of an image relative to ``root``."""
    found = image.get("path") if isinstance(image, Mapping) else image
    if not isinstance(found, str) or not found:
        raise BadRow("wrong image field", f"expected a path, got {ascii(image)[:60]}")
    text = found.removeprefix("file://")
    if text.startswith(("http:", "https:", "data:")):
        raise BadRow("image that is no file", f"{ascii(text)[:60]}; save it below data.images")
    path = PurePosixPath(text)
    if path.is_absolute() and path.is_relative_to(root.absolute()):
        return str(path.relative_to(root.absolute()))
    return text


def _write_list(items: Iterable[str], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as handle:
        handle.write("[\n")
        for number, item in enumerate(items):
            handle.write((",\n" if number else "") + item)
        handle.write("\n]\n")
