"""Write the rows of a subset in other trainers' formats; count rows that they would read
differently.

Each row is written as the product trains on it: turns that it leaves out are left out, ids are
strings, ``images`` is a list in every row, and fields without a use in a format are dropped. System
prompts, which the product replaces by its own, are kept, since other trainers use them.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from coincide.data.forms import SYSTEMS
from coincide.data.marks import LOSS
from coincide.data.parse import IMAGE, parse
from coincide.data.report import FIRST
from coincide.data.rows import scan
from coincide.schema import Turn, UserError

CHAT = {"human": "user", "gpt": "assistant", "system": "system"}


@dataclass(frozen=True)
class ExportRow:
    """A row of a subset, ready for export."""

    number: int
    """Its index in the subset."""
    id: str
    system: str | None
    turns: tuple[Turn, ...]
    images: tuple[str, ...]
    text: str
    """The row's text in the annotation file."""
    record: Mapping[str, Any]


def read_rows(path: Path) -> Iterator[ExportRow]:
    """The rows of a ``subset.json``. Raises :class:`UserError` for one that is not LLaVA json."""
    for number, text, record in scan(path):
        example, _, fault = parse(number, record, lambda _: "", tags_as_text=True)
        if fault:
            raise UserError(f"{path}: row {number} cannot be read: {fault}.")
        opening = record["conversations"][0]
        beside = next((record[name] for name in SYSTEMS if isinstance(record.get(name), str)), None)
        system = opening["value"] if opening.get("from") == "system" else beside or None
        yield ExportRow(number, example.id, system, example.turns, example.images, text, record)


# --- forms --------------------------------------------------------------------------------------


def _identity(row: ExportRow) -> dict[str, Any]:
    """``{"id": id}`` with the id as a string; empty if the row has none."""
    return {"id": row.id} if row.id else {}


def as_llava(row: ExportRow) -> dict[str, Any]:
    """LLaVA json with all fields of the row; ``image``: a path, a list of several, or absent."""
    said = list(row.record["conversations"])
    opening = int(said[0].get("from") == "system")
    kept = [*said[:opening], *said[len(said) - len(row.turns) :]]
    image = {"image": row.images[0] if len(row.images) == 1 else list(row.images)}
    if isinstance(row.record.get("image"), list):
        image = {"image": list(row.images)}
    changed = {**_identity(row), **(image if row.images else {}), "conversations": kept}
    # in the order of the row's own fields
    return {k: changed.get(k, v) for k, v in row.record.items() if k in changed or k not in _OWN}


_OWN = ("id", "image", "conversations")


def as_sharegpt(row: ExportRow) -> dict[str, Any]:
    """``conversations`` of ``from`` and ``value``, and ``images``: LLaMA-Factory's format."""
    said = [{"from": turn.role, "value": turn.text} for turn in row.turns]
    if row.system is not None:
        said.insert(0, {"from": "system", "value": row.system})
    return {**_identity(row), "conversations": said, "images": list(row.images)}


def as_messages(row: ExportRow) -> dict[str, Any]:
    """OpenAI roles, ``<image>`` in the text, and ``images``: ms-swift's format."""
    said = [_message(CHAT[turn.role], turn.text, turn) for turn in row.turns]
    if row.system is not None:
        said.insert(0, {"role": "system", "content": row.system})
    return {**_identity(row), "messages": said, "images": list(row.images)}


def as_trl(row: ExportRow) -> dict[str, Any]:
    """Contents as parts, with ``{"type": "image"}`` in the pictures' places, and ``images``."""
    return {**_parts(row, lambda _: {}, marks=False), "images": list(row.images)}


def as_axolotl(row: ExportRow) -> dict[str, Any]:
    """Contents as parts, with pictures as ``{"type": "image", "path": ...}``.

    No column ``images``.
    """
    return _parts(row, lambda path: {"path": path}, marks=False)


def as_parts(row: ExportRow) -> dict[str, Any]:
    """Contents as parts, with pictures as ``{"type": "image", "image": ...}``.

    All trainers read it alike. The column ``images`` is null: TRL recognises rows with pictures by
    its presence, and axolotl ignores a null one.
    """
    return {**_parts(row, lambda path: {"image": path}), "images": None}


def _message(role: str, content: Any, turn: Turn | None = None) -> dict[str, Any]:
    unlearnt = turn is not None and not turn.learn
    return {"role": role, "content": content, **({LOSS: False} if unlearnt else {})}


def _parts(
    row: ExportRow, picture: Callable[[str], Mapping[str, str]], *, marks: bool = True
) -> dict[str, Any]:
    left = iter(row.images)
    said = []
    if row.system is not None:
        said.append(_message("system", [_text(row.system)]))
    for turn in row.turns:
        parts = [
            {"type": "image", **picture(next(left))} if part is None else _text(part)
            for part in text_parts(turn.text)
        ]
        said.append(_message(CHAT[turn.role], parts, turn if marks else None))
    return {**_identity(row), "messages": said}


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def text_parts(text: str) -> Iterator[str | None]:
    """The texts of a turn, and None for each picture, without the line break between the two."""
    texts = text.split(IMAGE)
    for number, part in enumerate(texts):
        if number:
            yield None
        own = part.removeprefix("\n") if number else part
        own = own.removesuffix("\n") if number < len(texts) - 1 else own
        if own or len(texts) == 1:
            yield own


FORMS: Mapping[str, Callable[[ExportRow], dict[str, Any]]] = {
    "llava": as_llava,
    "llamafactory": as_sharegpt,
    "sharegpt": as_sharegpt,
    "messages": as_messages,
    "swift": as_messages,
    "trl": as_trl,
    "axolotl": as_axolotl,
    "parts": as_parts,
}


def as_json_line(row: ExportRow, form: str, place: Callable[[str], str]) -> str:
    """``row`` as JSON in ``form``; ``place`` converts its pictures' paths.

    A LLaVA row that needs no change is written byte for byte.
    """
    placed = tuple(map(place, row.images))
    record = FORMS[form](replace(row, images=placed))
    if form == "llava" and record == row.record:
        return row.text
    return json.dumps(record, ensure_ascii=False)


# --- what a reader takes otherwise --------------------------------------------------------------

_MEDIA = re.compile("<(?:video|audio)>")
_MODEL = re.compile(r"<\|[a-z_]+\|>|</?s>")


def _texts(row: ExportRow) -> list[str]:
    return [row.system or "", *(turn.text for turn in row.turns)]


def words_for_media(row: ExportRow) -> bool:
    """Whether a text contains ``<video>`` or ``<audio>`` as plain words."""
    return any(map(_MEDIA.search, _texts(row)))


def _inside_a_line(row: ExportRow) -> bool:
    def joined(text: str) -> str:
        return "\n".join(IMAGE if part is None else part for part in text_parts(text))

    return any(IMAGE in turn.text and joined(turn.text) != turn.text for turn in row.turns)


_TAGGED = ("llava", "sharegpt", "llamafactory", "messages", "swift")
_PARTED = ("trl", "axolotl", "parts")
MISREAD: tuple[tuple[tuple[str, ...], str, Callable[[ExportRow], bool]], ...] = (
    (
        ("sharegpt", "llamafactory", "messages"),
        "<video> or <audio> as plain text: LLaMA-Factory stops with ValueError, unless its "
        "placeholders are renamed (export VIDEO_PLACEHOLDER='<no video>' AUDIO_PLACEHOLDER="
        "'<no audio>')",
        words_for_media,
    ),
    (
        (*_TAGGED, *_PARTED),
        "<image> as plain text in a system prompt: taken for a picture that is not there",
        lambda row: row.system is not None and IMAGE in row.system,
    ),
    (
        (*_TAGGED, *_PARTED),
        "a picture in an answer: its tokens are learnt, or the reader refuses the row",
        lambda row: any(turn.role == "gpt" and IMAGE in turn.text for turn in row.turns),
    ),
    (
        (*_TAGGED, *_PARTED),
        "marks of a chat template as plain text (<|...|>, <s>, </s>): a tokenizer takes them for "
        "its own",
        lambda row: any(map(_MODEL.search, _texts(row))),
    ),
    (
        ("llava",),
        "a system prompt: LLaVA's own loader knows no such turn and stops (KeyError)",
        lambda row: row.system is not None,
    ),
    (
        ("sharegpt", "llamafactory", "trl", "axolotl"),
        "answers marked as not to be learnt: the form has no word for it, they are learnt "
        "(--as swift, parts and messages keep the mark)",
        lambda row: not all(turn.learn for turn in row.turns),
    ),
    (
        ("parts",),
        "answers marked as not to be learnt: ms-swift honours the mark, TRL and axolotl learn them",
        lambda row: not all(turn.learn for turn in row.turns),
    ),
    (
        ("parts", "axolotl"),
        "a system prompt: as parts, ms-swift stops at it (--as swift)",
        lambda row: row.system is not None,
    ),
    (
        ("axolotl",),
        "questions, which axolotl learns too with LLaVA's template (docs/CLIENTS.md)",
        lambda row: True,
    ),
    (
        _PARTED,
        "<image> inside a line: as parts every picture stands on a line of its own",
        _inside_a_line,
    ),
)


@dataclass
class Misread:
    """Counts rows, by reason, that a reader of the format would take differently from the
    product.
    """

    form: str
    counts: Counter[str] = field(default_factory=Counter)
    rows: dict[str, list[int]] = field(default_factory=dict)

    def look(self, row: ExportRow) -> None:
        """Count ``row`` for each reason that applies."""
        for forms, why, applies in MISREAD:
            if self.form in forms and applies(row):
                self.counts[why] += 1
                first = self.rows.setdefault(why, [])
                if len(first) < FIRST:
                    first.append(row.number)

    def lines(self) -> list[str]:
        """A line for each reason: number of rows, and the first ten by their index in the file."""
        return [
            f"{count:,} rows have {why}; rows "
            + ", ".join(map(str, self.rows[why]))
            + (", ..." if count > FIRST else "")
            for why, count in self.counts.items()
        ]
