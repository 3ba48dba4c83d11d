"""Read an annotation file row by row; errors name the place in the file."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

from coincide.data.filekind import READ, is_parquet, open_utf8, size_of, table_rows
from coincide.data.shards import shards_of
from coincide.schema import UserError
from coincide.terminal.progress import SOON, bar

_SPACE = re.compile(r"[ \t\r\n]*")
_STEP = 2**20
"""Bytes of a JSON list that are read at a time, more of rows that are longer."""
_TAIL = 16
"""Characters that show whether a number or word ends."""
_OBJECT = 2**28
"""Bytes up to which a file is looked at as one object."""
_TABLE = re.compile(r'"?[A-Za-z_][\w .-]*"?(?:[,;\t]"?[\w .-]*"?)+\r?\n')
_SHAPE = "a JSON list of rows, or one row a line (JSON lines)"
ROW_KEYS = frozenset({"conversations", "messages", "conversation", "texts", "prompt", "query",
                      "instruction", "question", "id", "image", "images"})  # fmt: skip
"""Fields by which a single row is recognised among JSON objects."""


def scan(path: Path) -> Iterator[tuple[int, str, Any]]:
    """Yield ``(row, text, value)`` for each row of ``path``, whose format is recognised by content.

    Of a folder, the rows of its shards, one after the other (:mod:`coincide.data.shards`).
    ``text`` is the row exactly as in the file; for Parquet, the row as JSON. Only one row's value
    is in memory at a time. Raises :class:`UserError`, with byte offset and row of the file, for
    anything malformed.
    """
    if path.is_dir():
        rows = (row for shard in shards_of(path) for row in _scan(shard))
        yield from ((number, text, value) for number, (_, text, value) in enumerate(rows))
    else:
        yield from _scan(path)


def _scan(path: Path) -> Iterator[tuple[int, str, Any]]:
    if is_parquet(path):
        yield from _table(path)
        return
    with open_utf8(path) as (stream, undone), _progress(path, "B") as progress:
        begin = 0
        while (byte := stream.peek(1)[:1]).isspace():
            begin += len(stream.read(1))
        progress.total = size_of(stream)
        read = _lines if byte == b"{" else _list
        yield from read(f"{path}{undone}", stream, begin, progress)


def _progress(path: Path, unit: str) -> Any:
    """The bar of a file that is read, whose size is set once it is known."""
    return bar(f"read {path.name}", total=0, unit=unit, delay=SOON)


def _table(path: Path) -> Iterator[tuple[int, str, Any]]:
    row = -1
    with _progress(path, "row") as progress:
        for row, record in enumerate(table_rows(path, progress)):
            yield row, json.dumps(record, default=inert), record
            progress.update(1)
    if row < 0:
        raise UserError(f"{path}: a Parquet file without a row.")


def inert(value: Any) -> str:
    """A text for a value that JSON does not have."""
    return f"<{len(value):,} bytes>" if isinstance(value, bytes) else str(value)


# --- JSON list --------------------------------------------------------------------------------


def _list(
    where: str, stream: BufferedReader, begin: int, progress: Any
) -> Iterator[tuple[int, str, Any]]:
    window = _Window(where, stream, begin, progress)
    if window.skip() != "[":
        what = _what(window.text, window.at)
        raise UserError(f"{where}: expected {_SHAPE}, got {what}. Read are {READ}.")
    if window.skip(1) == "]":
        raise UserError(f"{where}: an empty list; expected {_SHAPE}, at least one.")
    while True:
        value = window.value()
        yield window.number, window.text[window.row : window.at], value
        window.show()
        mark = window.skip()
        if mark == "]":
            break
        if mark != ",":
            raise window.malformed(window.at, "expected ',' or ']' after the row")
        window.skip(1)
        window.number += 1
    if window.skip(1):
        window.row = window.at
        raise window.malformed(window.at, "text after the end of the list")


class _Window:
    """The part of a JSON list that is in memory, from the present row on."""

    def __init__(self, where: str, stream: BufferedReader, begin: int, progress: Any) -> None:
        self.where, self._stream, self._progress = where, stream, progress
        self.text = ""
        self.at = self.row = self.number = 0
        """What is read next, where the present row begins, and its number."""
        self._before = begin
        """Bytes of the stream before the window."""
        self._shown = 0
        """Characters before the window."""
        self._read = begin
        """Bytes read of the stream."""
        self._ended = False
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._decode = json.JSONDecoder().raw_decode

    def skip(self, more: int = 0) -> str:
        """Go on by ``more`` characters and past white space; the character there, empty at the
        end of the stream.
        """
        self.at += more
        while True:
            match = _SPACE.match(self.text, self.at)
            self.at = match.end() if match else self.at
            if self.at < len(self.text) or self._ended:
                return self.text[self.at : self.at + 1]
            self._extend()

    def value(self) -> Any:
        """The row that begins here, and go past it."""
        self.row = self.at
        while True:
            try:
                value, end = self._decode(self.text, self.row)
            except json.JSONDecodeError as error:
                if self._ended or not self._is_cut(error):
                    raise self.malformed(error.pos, error.msg) from None
            except ValueError as error:  # a number of thousands of digits
                raise self.malformed(self.row, str(error)) from None
            except RecursionError:
                raise self.malformed(self.row, "nested too deeply") from None
            else:
                if self._ended or end + _TAIL < len(self.text):
                    self.at = end
                    return value
            self._extend()

    def _is_cut(self, error: json.JSONDecodeError) -> bool:
        """Whether ``error`` may be due to the end of the window."""
        unterminated = error.msg.startswith("Unterminated string")
        return unterminated or error.pos + _TAIL >= len(self.text)

    def _extend(self) -> None:
        """Read on, and drop what precedes the present row."""
        dropped, self.text = self.text[: self.row], self.text[self.row :]
        self._before += len(dropped.encode())
        self._shown += len(dropped)
        self.at, self.row = self.at - self.row, 0
        data = self._stream.read(max(_STEP, len(self.text)))
        self._read += len(data)
        try:
            self.text += self._decoder.decode(data, not self._stream.peek(1))
        except UnicodeDecodeError as error:
            byte = self._read - len(error.object) + error.start
            raise UserError(
                f"{self.where}: not UTF-8 at byte {byte:,}. Expected {_SHAPE}. Read are {READ}."
            ) from None
        if not self._stream.peek(1):
            self._ended = True
            self._progress.total = self._shown + len(self.text)

    def show(self) -> None:
        """Tell the bar how much is read: in characters, which differ little from bytes."""
        self._progress.update(self._shown + self.at - self._progress.n)

    def malformed(self, at: int, why: str) -> UserError:
        """The error for what stands at ``at``."""

        def offset(position: int) -> int:
            return self._before + len(self.text[:position].encode())

        while data := self._stream.read(_STEP):
            self._read += len(data)
        return UserError(
            f"{self.where}: malformed JSON at byte {offset(at):,} of {self._read:,}: {why}. It is "
            f"in row {self.number:,}, which begins at byte {offset(self.row):,}. A download that "
            "broke off looks like this: compare the file's size with its source and fetch it again."
        )


def _what(text: str, at: int) -> str:
    if at == len(text):
        return "an empty file"
    found = f"text that begins with {text[at : at + 20]!r}"
    if _TABLE.match(text, at):
        return (
            f"{found}, a table of columns (CSV): write its rows as JSON lines, with "
            "pandas.read_csv(...).to_json(..., orient='records', lines=True)"
        )
    return found


# --- JSON lines -------------------------------------------------------------------------------


def _lines(
    where: str, stream: BufferedReader, begin: int, progress: Any
) -> Iterator[tuple[int, str, Any]]:
    rows = _parsed_lines(where, stream, begin, progress)
    first = next(rows)
    second = next(rows, None)
    if second is None:
        _refuse_object(where, first[2])
    yield first
    if second is not None:
        yield second
    yield from rows


def _parsed_lines(
    where: str, stream: BufferedReader, begin: int, progress: Any
) -> Iterator[tuple[int, str, Any]]:
    row = 0
    for line in stream:
        if line.strip():
            try:
                text = line.decode("utf-8").strip()
                value = json.loads(text)
            except (ValueError, RecursionError) as error:
                whole = None if row else _one_object(line, stream)
                if whole is not None:
                    yield 0, _written(whole), whole
                    return
                raise UserError(
                    f"{where}: malformed JSON in row {row:,}, the line at byte {begin:,}: {error}. "
                    "A file that was cut short looks like this; so does one whose rows are not "
                    "one a line."
                ) from None
            yield row, text, value
            row += 1
        begin += len(line)
        progress.update(len(line))
    progress.total = progress.n


def _written(value: Any) -> str:
    """``value`` as JSON, in plain letters unless they cannot be encoded."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value)
    return text


def _one_object(first: bytes, stream: BufferedReader) -> dict[str, Any] | None:
    """The JSON object that the line ``first`` and what follows it consist of; None for anything
    else, and for more than ``_OBJECT`` bytes.
    """
    rest = stream.read(_OBJECT)
    try:
        value = None if stream.peek(1) else json.loads(first + rest)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _refuse_object(where: str, value: dict[str, Any]) -> None:
    """Refuse an object that contains a list of rows, or that is not a row itself."""
    if ROW_KEYS & value.keys():
        return
    lists = [key for key, rows in value.items() if isinstance(rows, list)]
    hint = f" Its rows may be the list under {lists[0]!r}: write that alone." if lists else ""
    keys = ", ".join(map(repr, list(value)[:8]))
    raise UserError(
        f"{where}: a JSON object with the keys {keys}; expected {_SHAPE}.{hint} Read are {READ}."
    )
