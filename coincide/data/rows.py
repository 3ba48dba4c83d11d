"""Read an annotation file row by row; errors name the place in the file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from coincide.data.filekind import READ, is_parquet, open_utf8, size_of, table_rows
from coincide.data.shards import shards_of
from coincide.schema import UserError
from coincide.terminal.progress import SOON, bar

_SPACE = re.compile(r"[ \t\r\n]*")
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
        where = f"{path}{undone}"
        begin = stream.tell()
        while (byte := stream.read(1)).isspace():
            pass
        stream.seek(begin)
        yield from (_lines if byte == b"{" else _list)(where, stream, progress)


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


def _list(where: str, stream: IO[bytes], progress: Any) -> Iterator[tuple[int, str, Any]]:
    text = _decoded(where, stream.read())
    progress.total = len(text)  # characters, which differ little from bytes
    at = _skip(text, 0)
    if text[at : at + 1] != "[":
        raise UserError(f"{where}: expected {_SHAPE}, got {_what(text, at)}. Read are {READ}.")
    at = _skip(text, at + 1)
    if text[at : at + 1] == "]":
        raise UserError(f"{where}: an empty list; expected {_SHAPE}, at least one.")
    decode = json.JSONDecoder().raw_decode
    row = 0
    while True:
        try:
            value, end = decode(text, at)
        except json.JSONDecodeError as error:
            raise _malformed(where, text, row, at, error.pos, error.msg) from None
        except ValueError as error:  # a number of thousands of digits
            raise _malformed(where, text, row, at, at, str(error)) from None
        except RecursionError:
            raise _malformed(where, text, row, at, at, "nested too deeply") from None
        yield row, text[at:end], value
        progress.update(end - progress.n)
        at = _skip(text, end)
        mark = text[at : at + 1]
        if mark == "]":
            break
        if mark != ",":
            raise _malformed(where, text, row, end, at, "expected ',' or ']' after the row")
        at = _skip(text, at + 1)
        row += 1
    at = _skip(text, at + 1)
    if at != len(text):
        raise _malformed(where, text, row, at, at, "text after the end of the list")


def _decoded(where: str, content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: not UTF-8 at byte {error.start:,}. Expected {_SHAPE}. Read are {READ}."
        ) from None


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


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


def _malformed(where: str, text: str, row: int, begin: int, at: int, why: str) -> UserError:
    def offset(position: int) -> int:
        return len(text[:position].encode("utf-8"))

    return UserError(
        f"{where}: malformed JSON at byte {offset(at):,} of {offset(len(text)):,}: {why}. It is in "
        f"row {row:,}, which begins at byte {offset(begin):,}. A download that broke off looks "
        "like this: compare the file's size with its source and fetch it again."
    )


# --- JSON lines -------------------------------------------------------------------------------


def _lines(where: str, stream: IO[bytes], progress: Any) -> Iterator[tuple[int, str, Any]]:
    rows = _parsed_lines(where, stream, progress)
    first = next(rows)
    second = next(rows, None)
    if second is None:
        _refuse_object(where, first[2])
    yield first
    if second is not None:
        yield second
    yield from rows


def _parsed_lines(where: str, stream: IO[bytes], progress: Any) -> Iterator[tuple[int, str, Any]]:
    row, begin = 0, 0
    progress.total = size_of(stream)
    for line in stream:
        if line.strip():
            try:
                text = line.decode("utf-8").strip()
                value = json.loads(text)
            except (ValueError, RecursionError) as error:
                whole = None if row else _one_object(line + stream.read())
                if whole is not None:
                    yield 0, json.dumps(whole, ensure_ascii=False), whole
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


def _one_object(content: bytes) -> dict[str, Any] | None:
    """The JSON object that ``content`` consists of; None for anything else."""
    try:
        value = json.loads(content)
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
