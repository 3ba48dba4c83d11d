"""``data=messages``: the forms of other trainers, read as they stand; ``docs/DATA.md`` lists them.

A JSON list, JSON lines or Parquet. The conversation is what :mod:`coincide.data.forms` finds; a
turn's content is text or a list of parts (OpenAI, Anthropic, TRL, axolotl, Qwen). Pictures are
those of ``images`` or ``image``, of parts, of turns, and ``<img>path</img>`` in a text: paths, or
the pictures themselves, which become files (:mod:`coincide.data.inline`).

Every turn and picture comes through in its place. ``<image>`` and parts without a path take the
row's pictures in their order; where a row's text has fewer ``<image>`` than it brings pictures, the
missing ones stand before the first question, as LLaMA-Factory and ms-swift put them. System
prompts are left out and counted, as of LLaVA json: the template has its own. Tool calls, other
media and pictures by URL are faults of their row.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from coincide.data.fault import BadRow, short
from coincide.data.forms import SYSTEM, conversation_of
from coincide.data.inline import Keep, as_bytes, decoded, is_base64, keeper, name_of
from coincide.data.llava_json import LlavaJson
from coincide.data.marks import LOSS, MARK, TOOL, UNREAD, learnt
from coincide.data.media import FIELD, refuse_fields
from coincide.data.parse import IMAGE
from coincide.data.rows import inert, scan
from coincide.files import write_atomic
from coincide.schema import Dataset
from coincide.store import Build

ROLES = {
    "user": "human",
    "human": "human",
    "assistant": "gpt",
    "gpt": "gpt",
    "bot": "gpt",
    "system": "system",
    "developer": "system",
}
TRAIN = "train.json"
"""The rows as LLaVA json, in the artifact: what subsets are cut from."""
PICTURES = ("images", "image")
TURN = frozenset({"role", "from", "content", "value", *PICTURES})
TEXTS = frozenset({"text", "input_text", "output_text"})
PICTURED = frozenset({"image", "image_url", "input_image"})
SHOWN = ("image_url", "image", "path", "url", "base64", "bytes", "source", "value", "data", "file")
"""Fields of a part, one of which has its picture."""
PATHS = ("path", "url", "image", "image_url", "file")
"""Fields of a picture that is an object, one of which is where it lies."""
OTHERS = re.compile(r".*(?:video|audio|document|file|speech|sound).*")
TOOLS = frozenset({"tool_use", "tool_result", "tool_call", "function_call", "tools"})
TAG = re.compile(r"<image>|<img>\s*([^<>\n]+?)\s*</img>")


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

    def reads_more(self) -> bool:
        """Forms that were faults once are read now, where faults are no error."""
        return self.on_bad_row == "drop"

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
    json comes as the :class:`BadRow`, its text as it stands. Inline pictures are written.
    """
    keep = keeper(image_root)
    for row, text, value in scan(path):
        try:
            record = to_llava(value, image_root, keep)
            yield row, json.dumps(record, default=inert), record
        except BadRow as fault:
            yield row, text, fault


@dataclass
class _Pictures:
    """The pictures of a row while its turns are read."""

    root: Path
    keep: Keep
    named: Mapping[str, Any] = field(default_factory=dict)
    """MiniCPM-V: pictures by the tags that stand for them."""
    slots: list[str | None] = field(default_factory=list)
    """In the order of their places; None: the next of those that the row lists."""
    by_part: bool = False
    """A part without a path stands for one that the row lists, so each must have its part."""

    def add(self, image: Any) -> str:
        """A picture with its path or content; its placeholder."""
        self.slots.append(path_of(image, self.root, self.keep))
        return IMAGE

    def told(self, text: str) -> str:
        """``text`` with ``<image>`` in the place of every picture, whatever stood there."""
        if self.named:
            tags = "|".join(map(re.escape, self.named))
            return re.sub(f"<image>|{tags}", self._tag, text)
        return TAG.sub(self._tag, text) if "<im" in text else text

    def _tag(self, found: re.Match[str]) -> str:
        if found[0] == IMAGE:
            self.slots.append(None)
            return IMAGE
        return self.add(self.named.get(found[0]) or found[1])


def to_llava(
    value: Any, image_root: Path, keep: Keep = lambda name, content: None
) -> dict[str, Any]:
    """A row of messages as LLaVA json, its other fields kept. Raises :class:`BadRow`.

    ``keep`` takes the pictures that are part of the row.
    """
    if not isinstance(value, dict):
        raise BadRow("not an object", f"got {short(value)}")
    said = conversation_of(value)
    listed, named = _listed(value)
    pictures = _Pictures(image_root, keep, named)
    turns = [_turn(number, message, pictures) for number, message in enumerate(said.turns)]
    paths = _filled(turns, pictures, [path_of(image, image_root, keep) for image in listed])
    turns = _opened(turns, value)
    used = {*said.fields, "images", SYSTEM} - {"conversations"}
    kept = {k: v for k, v in value.items() if k not in used}
    return {**kept, **({"image": paths} if paths else {}), "conversations": turns}


def _listed(value: Mapping[str, Any]) -> tuple[list[Any], Mapping[str, Any]]:
    """The row's pictures in their order, or by the tag that stands for each."""
    there = [value[name] for name in PICTURES if value.get(name)]
    if len(there) == 2 and there[1] != there[0] and there[1] not in there[0]:
        raise BadRow("wrong image field", f"images and image differ: {short(there)}")
    found = there[0] if there else []
    if isinstance(found, dict) and all(k.startswith("<") for k in found):
        return [], found
    return found if isinstance(found, list) else [found], {}


def _turn(number: int, message: Any, pictures: _Pictures) -> dict[str, Any]:
    """One turn as LLaVA json; its pictures are added to ``pictures``."""
    if not isinstance(message, dict):
        raise BadRow("malformed turn", f"turn {number} is {short(message)}")
    role = message.get("role", message.get("from"))
    if not isinstance(role, str) or role not in ROLES:
        raise BadRow("unknown role", f"turn {number} is from {short(role)}")
    learn = True
    if not message.keys() <= TURN:
        learn = learnt(f"turn {number}", message, ROLES[role] == "gpt")
        refuse_fields(f"turn {number}", message, TURN, ())
    content = message.get("content", message.get("value"))
    before = len(pictures.slots)
    if isinstance(content, dict):
        content = [content]
    if isinstance(content, list):
        content = "\n".join(_part(number, part, pictures) for part in content)
    elif isinstance(content, str):
        content = pictures.told(content)
    else:
        raise BadRow("malformed turn", f"turn {number}: expected text or a list of parts")
    own: Any = next((message[name] for name in PICTURES if message.get(name)), [])
    content = _own(number, content, own if isinstance(own, list) else [own], before, pictures)
    return {"from": ROLES[role], "value": content, **({} if learn else {LOSS: False})}


def _own(number: int, text: str, images: list[Any], before: int, pictures: _Pictures) -> str:
    """``text`` with the pictures that its turn brings: in its placeholders, or in front."""
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


def _part(number: int, part: Any, pictures: _Pictures) -> str:
    where = f"turn {number}, a part of it"
    if not isinstance(part, dict):
        raise BadRow("malformed turn", f"{where} is {short(part)}")
    part = {key: found for key, found in part.items() if found is not None}
    kind = part.get("type", next((k for k in ("text", "image", "image_url") if k in part), None))
    if not learnt(where, part, answer=True):
        raise BadRow(MARK, f"{where} is not to be learnt: only whole turns can be marked")
    if kind in TEXTS:
        text = next((part[k] for k in ("text", "value", "content") if k in part), None)
        if isinstance(text, str):
            refuse_fields(where, part, ("type", "text", "value", "content"), ())
            return pictures.told(text)
    elif kind in PICTURED:
        refuse_fields(where, part, ("type", *SHOWN), ("it",))
        shown = next((part[k] for k in SHOWN if k in part), None)
        if shown is not None:
            return pictures.add(shown)
        pictures.slots.append(None)
        pictures.by_part = True
        return IMAGE
    elif isinstance(kind, str):
        _refuse_kind(where, kind)
    raise BadRow("malformed turn", f"{where} is of type {short(kind)}: {short(part)}")


def _refuse_kind(where: str, kind: str) -> None:
    if kind in TOOLS:
        raise BadRow(TOOL, f"{where} is of type {kind!r}")
    if kind in ("thinking", "reasoning", "redacted_thinking", "refusal"):
        raise BadRow(UNREAD, f"{where} is of type {kind!r}")
    if OTHERS.fullmatch(kind):
        raise BadRow(FIELD, f"{where} is of type {short(kind)}")


def _filled(turns: list[dict[str, Any]], pictures: _Pictures, listed: list[str]) -> list[str]:
    """All pictures in the order of their places; those without one go before the first question."""
    places = pictures.slots.count(None)
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
    paths = (next(left, None) if slot is None else slot for slot in slots)
    return [path for path in paths if path is not None]


def _opened(turns: list[dict[str, Any]], value: Mapping[str, Any]) -> list[dict[str, Any]]:
    """``turns`` behind one system prompt, where the row has any."""
    begin = next((n for n, turn in enumerate(turns) if turn["from"] != "system"), len(turns))
    if begin:
        return turns[begin - 1 :]
    system = value.get(SYSTEM)
    if isinstance(system, list):
        system = "\n".join(p["text"] for p in system if isinstance(p, dict) and "text" in p)
    if not isinstance(system, str) or not system:
        return turns
    return [{"from": SYSTEM, "value": system}, *turns]


def path_of(image: Any, root: Path, keep: Keep) -> str:
    """The path of a picture relative to ``root``; one that is no file yet goes to ``keep``."""
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
        return _kept(decoded(found), keep)
    text = found.removeprefix("file://")
    if re.match(r"[a-z][a-z0-9+.-]+://|https?:", text, re.IGNORECASE):
        raise BadRow("image that is no file", f"{short(text)}; save it below data.images")
    path = PurePosixPath(text)
    if path.is_absolute() and path.is_relative_to(root.absolute()):
        return str(path.relative_to(root.absolute()))
    return text


def _kept(content: bytes, keep: Keep) -> str:
    name = name_of(content)
    keep(name, content)
    return name


def _write_list(items: Iterable[str], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as handle:
        handle.write("[\n")
        for number, item in enumerate(items):
            handle.write((",\n" if number else "") + item)
        handle.write("\n]\n")
