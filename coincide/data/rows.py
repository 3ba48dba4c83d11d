"""Scan an annotation file row by row, with the place of every fault."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coincide.schema import UserError

_SPACE = re.compile(r"[ \t\r\n]*")
_SHAPE = 'a JSON list of {"id", "image", "conversations"} objects (LLaVA json)'


def scan(path: Path) -> Iterator[tuple[int, str, Any]]:
    """Yield ``(row, text, value)`` for each element of the JSON list in ``path``.

    ``text`` is the element exactly as it stands in the file. One pass; only one row's value
    lives at a time. Raises :class:`UserError` with byte offset and row for anything malformed.
    """
    text = _read(path)
    at = _skip(text, int(text.startswith("\ufeff")))
    if text[at : at + 1] != "[":
        raise UserError(f"{path}: expected {_SHAPE}, got {_what(text, at)}.")
    at = _skip(text, at + 1)
    if text[at : at + 1] == "]":
        raise UserError(f"{path}: an empty list; expected {_SHAPE} with at least one row.")
    decode = json.JSONDecoder().raw_decode
    row = 0
    while True:
        try:
            value, end = decode(text, at)
        except json.JSONDecodeError as error:
            raise _malformed(path, text, row, at, error.pos, error.msg) from None
        except RecursionError:
            raise _malformed(path, text, row, at, at, "nested too deeply") from None
        yield row, text[at:end], value
        at = _skip(text, end)
        mark = text[at : at + 1]
        if mark == "]":
            break
        if mark != ",":
            raise _malformed(path, text, row, end, at, "expected ',' or ']' after the row")
        at = _skip(text, at + 1)
        row += 1
    at = _skip(text, at + 1)
    if at != len(text):
        raise _malformed(path, text, row, at, at, "text after the end of the list")


def _read(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"annotations {path}: no such file.")
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8 at byte {error.start:,}. Expected {_SHAPE}, in UTF-8."
        ) from None


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _what(text: str, at: int) -> str:
    if at == len(text):
        return "an empty file"
    if text[at] == "{":
        lines = text[at:].split("\n", 2)
        if len(lines) > 1 and lines[0].rstrip().endswith("}") and lines[1].startswith("{"):
            return "JSON lines; read them with data=messages, or wrap the rows into one list"
        return "a JSON object"
    return f"text that begins with {text[at : at + 20]!r}"


def _malformed(path: Path, text: str, row: int, begin: int, at: int, why: str) -> UserError:
    def offset(position: int) -> int:
        return len(text[:position].encode("utf-8"))

    return UserError(
        f"{path}: malformed JSON at byte {offset(at):,} of {offset(len(text)):,}: {why}. It is in "
        f"row {row:,}, which begins at byte {offset(begin):,}. A download that broke off looks "
        "like this: compare the file's size with its source and fetch it again."
    )
