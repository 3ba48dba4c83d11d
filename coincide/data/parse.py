"""Parse one row of LLaVA json to an :class:`Example`, or find what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import cycle
from typing import Any

from coincide.data.fault import BadRow, short
from coincide.data.forms import SYSTEMS, refuse_other
from coincide.data.inline import is_base64
from coincide.data.marks import is_learnt, refuse_row
from coincide.data.media import refuse_fields, refuse_moving, refuse_tags
from coincide.schema import Example, Role, Turn

IMAGE = "<image>"
ROLES: Mapping[str, Role] = {"human": "human", "gpt": "gpt"}
_SURROGATE = re.compile("[\ud800-\udfff]")
FIELDS = frozenset({"id", "image", "conversations"})
OTHERS = ("messages", "conversation", "texts", "query", "instruction", "prompt", "question")
"""Fields that hold the conversation in other formats."""
LONGEST = 4096
"""Longest path in bytes on Linux."""
_PLAIN = 2
"""Number of fields of a turn that only has speaker and text."""
SourceOf = Callable[[dict[str, Any]], str]


def parse(
    row: int, value: Any, source_of: SourceOf, *, tags_as_text: bool = False
) -> tuple[Example, int, BadRow | None]:
    """The example, the number of leading turns left out, and the fault (None if it is fine).

    ``tags_as_text``: tags of other media in a text are plain text, not a fault. A faulty row gives
    an example without turns and images that keeps row, id and source. ``value`` may be a fault that
    a reader of another format found already.
    """
    if isinstance(value, BadRow):
        return Example(row, "", (), (), ""), 0, value
    if not isinstance(value, dict):
        return Example(row, "", (), (), ""), 0, BadRow("not an object", f"got {short(value)}")
    identity, source = "", source_of(value)
    try:
        identity = _id(value.get("id"))
        images = image_paths(value)
        refuse_moving(images)
        turns, left_out = _turns(value.get("conversations"), value)
        if not value.keys() <= FIELDS:
            refuse_row(value)
            refuse_other("conversations", value["conversations"], value)
            refuse_fields("the row", value, FIELDS, images)
        if not tags_as_text:
            for number, turn in enumerate(turns, left_out):
                refuse_tags(f"turn {number}", turn.text)
        _match_placeholders(turns, images)
    except BadRow as fault:
        return Example(row, identity, (), (), source), 0, fault
    beside = not left_out and any(isinstance(value.get(name), str) for name in SYSTEMS)
    return Example(row, identity, images, turns, source), left_out + beside, None


def image_paths(value: Mapping[str, Any]) -> tuple[str, ...]:
    """The row's image paths; raises :class:`BadRow` if ``image`` is neither a path nor a list of
    paths.
    """
    found = value.get("image")
    if found is None or found in ("", []):
        return ()
    paths = found if isinstance(found, list) else [found]
    if not all(isinstance(path, str) and path for path in paths):
        inline = any(isinstance(path, (dict, bytes)) for path in paths)
        hint = "; data=messages reads pictures that are part of a row" if inline else ""
        raise BadRow("wrong image field", f"expected paths, got {short(found)}{hint}")
    if any(path.startswith("data:") or len(path) > LONGEST or is_base64(path) for path in paths):
        raise BadRow("wrong image field", "a picture in base64 is no path; data=messages reads it")
    return tuple(paths)


def _id(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise BadRow("wrong id", f"expected a string or an integer, got {short(value)}")
    return str(value)


def _turns(value: Any, row: Mapping[str, Any]) -> tuple[tuple[Turn, ...], int]:
    """Alternating turns from a question to an answer, and the number of leading turns left out.

    Like LLaVA's loader, this leaves out what precedes the first question; the template has its own
    system prompt.
    """
    if not isinstance(value, list) or not value:
        others = [name for name in OTHERS if row.get(name)]
        hint = f"; {others[0]!r} is read by data=messages" if others else ""
        raise BadRow("no conversation", f'"conversations" is {short(value)}{hint}')
    begin = int(isinstance(value[0], dict) and value[0].get("from") == "system")
    if begin and len(value[0]) != _PLAIN:
        is_learnt("turn 0", value[0], False)
    turns = [_turn(number, item) for number, item in enumerate(value[begin:], begin)]
    if turns and turns[0].role == "gpt":
        turns.pop(0)
        begin += 1
    for number, (turn, expected) in enumerate(zip(turns, cycle(("human", "gpt")), strict=False)):
        if turn.role != expected:
            raise BadRow("two turns of one role", f"turn {begin + number} is {turn.role} again")
    if not turns or turns[-1].role != "gpt":
        raise BadRow("no answer", "the conversation does not end with a turn from gpt")
    return tuple(turns), begin


def _turn(number: int, item: Any) -> Turn:
    if not isinstance(item, dict) or not isinstance(item.get("value"), str):
        chat = isinstance(item, dict) and "role" in item
        hint = "; data=messages reads role and content" if chat else ""
        raise BadRow(
            "malformed turn", f'turn {number}: expected {{"from", "value"}} with text{hint}'
        )
    role = item.get("from")
    if not isinstance(role, str) or role not in ROLES:
        hint = "; data=messages reads it" if role in ("user", "assistant", "developer") else ""
        raise BadRow("unknown role", f"turn {number} is from {short(role)}{hint}")
    text: str = item["value"]
    if not text.isascii() and _SURROGATE.search(text):
        raise BadRow("broken Unicode", f"turn {number} holds a lone surrogate")
    if len(item) == _PLAIN:
        return Turn(ROLES[role], text)
    refuse_fields(f"turn {number}", item, ("from", "value"), ())
    if any(item.get(name) not in (None, "", text) for name in ("content", "text")):
        raise BadRow("malformed turn", f"turn {number} says two things: {short(item)}")
    return Turn(ROLES[role], text, is_learnt(f"turn {number}", item, role == "gpt"))


def _match_placeholders(turns: tuple[Turn, ...], images: tuple[str, ...]) -> None:
    found = sum(turn.text.count(IMAGE) for turn in turns)
    if found != len(images):
        more = "more" if found > len(images) else "fewer"
        hint = "" if found > len(images) else "; data=messages puts those without one in front"
        raise BadRow(f"{more} <image> than images", f"{found} <image>, {len(images)} images{hint}")
