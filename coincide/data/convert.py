"""Convert a row in another trainer's format to LLaVA json, with every picture in its place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coincide.data.fault import BadRow, short
from coincide.data.forms import SYSTEM, SYSTEMS, TURNS, conversation_of, from_json
from coincide.data.inline import PictureWriter
from coincide.data.marks import LOSS, MARK, TOOL, UNREAD, is_learnt
from coincide.data.media import FIELD, refuse_fields
from coincide.data.parse import IMAGE
from coincide.data.pictures import IMAGES, TAG, Pictures, path_of

ROLES = {
    "user": "human",
    "human": "human",
    "assistant": "gpt",
    "gpt": "gpt",
    "bot": "gpt",
    "model": "gpt",
    "chatgpt": "gpt",
    "ai": "gpt",
    "system": "system",
    "developer": "system",
}
PICTURES = ("images", "image")
TURN = frozenset({"role", "from", "content", "value", *PICTURES})
TEXTS = frozenset({"text", "input_text", "output_text"})
PICTURED = frozenset({"image", "image_url", "input_image"})
SHOWN = ("image_url", "image", "path", "url", "base64", "bytes", "source", "value", "data", "file")
"""Fields of a content part that may hold its picture."""
OTHERS = re.compile(r".*(?:video|audio|document|file|speech|sound).*")
TOOLS = frozenset({"tool_use", "tool_result", "tool_call", "function_call", "tools"})


def to_llava(
    value: Any,
    image_root: Path,
    keep: PictureWriter = lambda name, content: None,
    *,
    tags_as_text: bool = False,
) -> dict[str, Any]:
    """A row of messages as LLaVA json, with its other fields kept. Raises :class:`BadRow`.

    ``keep`` receives pictures that are embedded in the row; ``tags_as_text``: ``<img>path</img>``
    in a text is plain text.
    """
    if not isinstance(value, dict):
        raise BadRow("not an object", f"got {short(value)}")
    said = conversation_of(value)
    listed, named = _listed(value)
    pictures = Pictures(image_root, keep, named, IMAGES if tags_as_text else TAG)
    turns = [_turn(number, message, pictures) for number, message in enumerate(said.turns)]
    paths = _filled(turns, pictures, [path_of(image, image_root, keep) for image in listed])
    turns = _opened(turns, value)
    used = {*said.fields, *TURNS, "texts", "images", *SYSTEMS} - {"conversations"}
    kept = {k: v for k, v in value.items() if k not in used}
    return {**kept, **({"image": paths} if paths else {}), "conversations": turns}


def _listed(value: Mapping[str, Any]) -> tuple[list[Any], Mapping[str, Any]]:
    """The row's pictures: a list in order, or a mapping from the tags that stand for them."""
    there = [from_json(value[name]) for name in PICTURES if value.get(name)]
    several = there[0] if there and isinstance(there[0], list) else there[:1]
    if len(there) == 2 and there[1] != there[0] and there[1] not in several:
        raise BadRow("wrong image field", f"images and image differ: {short(there)}")
    found = there[0] if there else []
    if isinstance(found, dict) and all(k.startswith("<") for k in found):
        return [], found
    return found if isinstance(found, list) else [found], {}


def _turn(number: int, message: Any, pictures: Pictures) -> dict[str, Any]:
    """One turn as LLaVA json; its pictures are added to ``pictures``."""
    if not isinstance(message, dict):
        raise BadRow("malformed turn", f"turn {number} is {short(message)}")
    _refuse_two(number, message)
    role = message.get("role", message.get("from"))
    if not isinstance(role, str) or role not in ROLES:
        raise BadRow("unknown role", f"turn {number} is from {short(role)}")
    learn = True
    if not message.keys() <= TURN:
        learn = is_learnt(f"turn {number}", message, ROLES[role] == "gpt")
        refuse_fields(f"turn {number}", message, TURN, ())
    content = message.get("content", message.get("value"))
    before = len(pictures.slots)
    if isinstance(content, dict):
        content = [content]
    if isinstance(content, list):
        content = "\n".join(_part(number, part, pictures) for part in content)
    elif isinstance(content, str):
        content = pictures.with_placeholders(content)
    else:
        raise BadRow("malformed turn", f"turn {number}: expected text or a list of parts")
    own: Any = next((message[name] for name in PICTURES if message.get(name)), [])
    content = _own(number, content, own if isinstance(own, list) else [own], before, pictures)
    return {"from": ROLES[role], "value": content, **({} if learn else {LOSS: False})}


def _refuse_two(number: int, message: Mapping[str, Any]) -> None:
    """Raise :class:`BadRow` for a turn that says two things, of which one would be left out."""
    texts = [message[name] for name in ("content", "value", "text") if message.get(name)]
    roles = {ROLES.get(message[n]) for n in ("role", "from") if isinstance(message.get(n), str)}
    if any(text != texts[0] for text in texts[1:]) or len(roles) > 1:
        raise BadRow("malformed turn", f"turn {number} says two things: {short(message)}")


def _own(number: int, text: str, images: list[Any], before: int, pictures: Pictures) -> str:
    """``text`` with the turn's own pictures: at its placeholders, or in front."""
    if not images:
        return text
    paths = [path_of(image, pictures.root, pictures.keep) for image in images]
    if len(pictures.slots) == before:
        pictures.slots += paths
        return f"{IMAGE}\n" * len(paths) + text
    places = [n for n in range(before, len(pictures.slots)) if pictures.slots[n] is None]
    if len(places) != len(paths):
        raise BadRow(
            "wrong image field", f"turn {number}: {len(paths)} images for {len(places)} <image>"
        )
    for place, path in zip(places, paths, strict=True):
        pictures.slots[place] = path
    return text


def _part(number: int, part: Any, pictures: Pictures) -> str:
    where = f"turn {number}, a part of it"
    if not isinstance(part, dict):
        raise BadRow("malformed turn", f"{where} is {short(part)}")
    part = {key: found for key, found in part.items() if found is not None}
    kind = part.get("type", next((k for k in ("text", "image", "image_url") if k in part), None))
    if not isinstance(kind, str):
        raise BadRow("malformed turn", f"{where} is of type {short(kind)}: {short(part)}")
    if not is_learnt(where, part, answer=True):
        raise BadRow(MARK, f"{where} is not to be learnt: only whole turns can be marked")
    if kind in TEXTS:
        text = next((part[k] for k in ("text", "value", "content") if k in part), None)
        if isinstance(text, str):
            refuse_fields(where, part, ("type", "text", "value", "content"), ())
            return pictures.with_placeholders(text)
    elif kind in PICTURED:
        refuse_fields(where, part, ("type", *SHOWN), ("it",))
        if part.get("text"):
            raise BadRow(UNREAD, f"{where} is a picture and has a text: {short(part['text'])}")
        shown = next((part[k] for k in SHOWN if k in part), None)
        if shown is not None:
            return pictures.add(shown)
        pictures.slots.append(_index(where, part.get("index")))
        pictures.by_part = True
        return IMAGE
    else:
        _refuse_kind(where, kind)
    raise BadRow("malformed turn", f"{where} is of type {short(kind)}: {short(part)}")


def _index(where: str, value: Any) -> int | None:
    """Which of the row's pictures a part names (Hugging Face's llava-instruct-mix); None: the next
    one.
    """
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    raise BadRow("malformed turn", f"{where} has the index {short(value)}, expected 0, 1, ...")


def _refuse_kind(where: str, kind: str) -> None:
    if kind in TOOLS:
        raise BadRow(TOOL, f"{where} is of type {kind!r}")
    if kind in ("thinking", "reasoning", "redacted_thinking", "refusal"):
        raise BadRow(UNREAD, f"{where} is of type {kind!r}")
    if OTHERS.fullmatch(kind):
        raise BadRow(FIELD, f"{where} is of type {short(kind)}")


def _filled(turns: list[dict[str, Any]], pictures: Pictures, listed: list[str]) -> list[str]:
    """All pictures in the order of their places.

    Those without a place go before the first question.
    """
    named = {slot for slot in pictures.slots if isinstance(slot, int)}
    if named and (None in pictures.slots or max(named) >= len(listed)):
        raise BadRow(
            "wrong image field", f"parts name the images {sorted(named)} of {len(listed)}, and "
            f"{pictures.slots.count(None)} name none"
        )  # fmt: skip
    places = pictures.slots.count(None) + len(named)
    lacking = max(0, len(listed) - places)
    if lacking and pictures.by_part:
        raise BadRow(
            "fewer <image> than images", f"{places} parts of type image, {len(listed)} images"
        )
    if lacking:
        first = next((turn for turn in turns if turn["from"] == "human"), None)
        if first is None:
            raise BadRow("no answer", "there is no question to put the pictures before")
        first["value"] = f"{IMAGE}\n" * lacking + first["value"]
    left = iter(listed)
    slots = [*[None] * lacking, *pictures.slots]
    paths = (
        next(left, None) if slot is None else listed[slot] if isinstance(slot, int) else slot
        for slot in slots
    )
    return [path for path in paths if path is not None]


def _opened(turns: list[dict[str, Any]], value: Mapping[str, Any]) -> list[dict[str, Any]]:
    """``turns`` preceded by one system prompt, if the row has any."""
    begin = next((n for n, turn in enumerate(turns) if turn["from"] != "system"), len(turns))
    if begin:
        return turns[begin - 1 :]
    system = next((value[name] for name in SYSTEMS if value.get(name)), None)
    if isinstance(system, list):
        system = "\n".join(p["text"] for p in system if isinstance(p, dict) and "text" in p)
    if not isinstance(system, str) or not system:
        return turns
    return [{"from": SYSTEM, "value": system}, *turns]
