"""Read which rows of a dataset a file names: as row indices, ids or whole records, in any format.

The format is recognised by content, never by the file's suffix. :data:`TAKES` lists the formats.
"""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from coincide.data.filekind import decode_text, known_format, unpacked
from coincide.data.report import FIRST
from coincide.data.rows import scan
from coincide.schema import UserError

if TYPE_CHECKING:
    import numpy as np

TAKES = """method=from_file takes, told by content:
  row indices   an .npy of integers, or a list of integers
  a mask        an .npy of booleans, or a list of true and false, one for each row
  ids           a list of strings, or an .npy of strings
  rows          LLaVA json or messages: whatever `python -m coincide.export` writes
  a table       parquet or csv with a column row, index or id, and perhaps selected
A list is a JSON list, JSON lines, one entry a line (.txt, .csv, a header is skipped), or the only
list of a JSON object; an .npz holds one array, or one of such a name. Each may be compressed by
gzip, bzip2 or xz, and in UTF-16 or UTF-32."""
ROW_NAMES = (
    "row", "rows", "row_index", "row_indices", "index", "indices", "idx", "idxs", "indexes",
    "selected_rows", "selected_indices", "selected_idx",
)  # fmt: skip
ID_NAMES = ("id", "ids", "selected_ids", "uid", "uids", "question_id", "question_ids")
SELECTED = "selected"
_INTEGER = re.compile(r"[+-]?[0-9]+")
_PADDED = re.compile(r"[+-]?0[0-9]+")
_NAMED = 20
"""Most columns or keys that an error lists."""

Kind = Literal["rows", "ids", "numbers", "mask", "records"]


@dataclass(frozen=True)
class Entries:
    """The entries of a file. ``kind`` ``numbers``: integers that may be row indices or ids."""

    kind: Kind
    values: Sequence[Any]
    """int, str, int, bool or dict, depending on ``kind``."""
    ids: Sequence[str] | None = None
    """For a table with both rows and ids: the ids that the dataset must have at these rows."""


def read_entries(path: Path) -> Entries:
    """The entries of ``path`` in its order.

    Raises :class:`UserError`, listing the accepted formats.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file. {TAKES}")
    data = unpacked(path)
    if data[:6] == b"\x93NUMPY":
        return _of_array(_load(data, path), path)
    if data[:4] == b"PK\x03\x04":
        return _of_archive(data, path)
    if data[:4] == b"PAR1":
        return _of_parquet(data, path)
    if data[:1] == b"\x80":
        raise UserError(f"{path}: got a pickle, which may run code when opened. {TAKES}")
    if what := known_format(data[:512]):
        raise UserError(f"{path} is {what}. {TAKES}")
    return _of_text(_decode(data, path), path)


# --- arrays -------------------------------------------------------------------------------------


def index_array(path: Path) -> np.ndarray:
    """Row indices int [k] of an ``.npy`` file, in its order; UserError for any other content."""
    array = _load(path.read_bytes(), path)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise UserError(_wrong_array(array, path))
    if not len(array):
        raise UserError(f"{path}: an empty array; expected at least one row index.")
    return array


def _load(data: bytes, path: Path) -> np.ndarray:
    import numpy as np

    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: no array of row indices ({error}).") from None
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path}: expected integer row indices [k], got an archive.")
    return array


def _wrong_array(array: np.ndarray, path: Path) -> str:
    got = f"{array.dtype} {list(array.shape)}"
    return f"{path}: expected integer row indices [k], got {got}. {TAKES}"


def _of_array(array: np.ndarray, path: Path) -> Entries:
    kinds: dict[str, Kind] = {"i": "rows", "u": "rows", "b": "mask", "U": "ids"}
    if array.ndim != 1 or array.dtype.kind not in kinds:
        raise UserError(_wrong_array(array, path))
    if not len(array):
        raise UserError(f"{path}: an empty array; expected at least one row index.")
    return Entries(kinds[array.dtype.kind], array.tolist())


def _of_archive(data: bytes, path: Path) -> Entries:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
            known = [name for name in names if name.removesuffix(".npy").lower() in _KNOWN]
            names = known if len(known) == 1 else names
            if len(names) != 1 or not names[0].endswith(".npy"):
                shown = ", ".join(map(ascii, names[:_NAMED])) or "nothing"
                raise UserError(f"{path}: an archive that holds {shown}. {TAKES}")
            return _of_array(_load(archive.read(names[0]), path), path)
    except zipfile.BadZipFile as error:
        raise UserError(f"{path}: a broken archive ({error}).") from None


# --- tables -------------------------------------------------------------------------------------


def _of_parquet(data: bytes, path: Path) -> Entries:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(io.BytesIO(data))
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: broken parquet ({error}).") from None
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    if not table.num_rows:
        raise UserError(f"{path}: an empty table; expected at least one row.")
    if columns.keys() & {"conversations", "messages"}:
        return Entries("records", _selected(table.to_pylist(), columns, path))
    return _of_columns(columns, path)


def _of_columns(columns: Mapping[str, list[Any]], path: Path) -> Entries:
    """Entries of a table: its row column, else its id column, for rows where ``selected`` is
    true.
    """
    # find the column of row indices and that of ids, whatever their case
    names = {name.strip().lower(): name for name in columns}
    row = next((names[name] for name in ROW_NAMES if name in names), None)
    identity = next((names[name] for name in ID_NAMES if name in names), None)
    # neither: a single column is a list, anything else is refused
    if row is None and identity is None:
        if len(columns) == 1:
            return _of_list(_selected(next(iter(columns.values())), columns, path), path)
        shown = ", ".join(map(ascii, list(columns)[:_NAMED]))
        raise UserError(f"{path}: a table without a column row, index or id; it has {shown}.")
    # only ids: the entries are ids
    ids = _selected(columns[identity], columns, path) if identity is not None else None
    if row is None:
        return Entries("ids", ["" if value is None else str(value) for value in ids or ()])
    # row indices; ids beside them are to be compared with the dataset
    rows = [_integer(value, path) for value in _selected(columns[row], columns, path)]
    texts = None if ids is None else ["" if value is None else str(value) for value in ids]
    return Entries("rows", rows, texts)


def _selected(values: list[Any], columns: Mapping[str, list[Any]], path: Path) -> list[Any]:
    flags = columns.get(SELECTED)
    if flags is None:
        return values
    truth = {"true": True, "1": True, "false": False, "0": False}
    wrong = [flag for flag in flags if str(flag).strip().lower() not in truth]
    if wrong:
        raise UserError(f"{path}: the column selected holds {wrong[0]!r}; expected true or false.")
    found = [v for v, flag in zip(values, flags, strict=True) if truth[str(flag).strip().lower()]]
    if not found:
        raise UserError(f"{path}: no row is selected; expected at least one.")
    return found


def _integer(value: Any, path: Path) -> int:
    if isinstance(value, str) and _INTEGER.fullmatch(value.strip()):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(f"{path}: got {ascii(value)[:60]} as a row index; expected an integer.")
    return value


# --- text ---------------------------------------------------------------------------------------


def _decode(data: bytes, path: Path) -> str:
    try:
        return decode_text(data, path)
    except UserError as error:
        raise UserError(f"{error} {TAKES}") from None


def _of_text(text: str, path: Path) -> Entries:
    begin = text.lstrip()[:1]
    if not begin:
        raise UserError(f"{path}: an empty file. {TAKES}")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if begin == "[":
        return _of_list(_json_list(text, path), path)
    if begin == "{":
        return _of_object(text, lines, path)
    if begin == '"' and all(line[:1] == line[-1:] == '"' and '","' not in line for line in lines):
        values = [_json(line, number, path) for number, line in enumerate(lines, 1)]
        return _of_list(values, path)
    return _of_lines(lines, path)


def _json_list(text: str, path: Path) -> list[Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return [value for _, _, value in scan(path)]  # its error names the place
    if not found:
        raise UserError(f"{path}: an empty list. {TAKES}")
    return found


def _json(line: str, number: int, path: Path) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: malformed JSON in line {number:,}: {error}. {TAKES}") from None


def _of_object(text: str, lines: list[str], path: Path) -> Entries:
    """Entries of one JSON object that contains one list, or of JSON lines."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        values = [_json(line, number, path) for number, line in enumerate(lines, 1)]
        return _of_list(values, path)
    if found.keys() & {"conversations", "messages"}:
        return Entries("records", [found])
    if found and all(isinstance(value, bool) for value in found.values()):
        return Entries("ids", [name for name, chosen in found.items() if chosen])
    lists = {name: value for name, value in found.items() if isinstance(value, list)}
    known = {name: value for name, value in lists.items() if name.lower() in _KNOWN}
    picked = known if len(known) == 1 else lists
    if len(picked) != 1:
        shown = ", ".join(map(ascii, list(found)[:_NAMED])) or "nothing"
        raise UserError(f"{path}: a JSON object with {shown}; expected one list in it. {TAKES}")
    ((name, values),) = picked.items()
    if not values:
        raise UserError(f"{path}: an empty list. {TAKES}")
    return _named(name, _of_list(values, path), path)


_KNOWN = (*ROW_NAMES, *ID_NAMES)


def _named(name: str, entries: Entries, path: Path) -> Entries:
    """``entries`` under a key whose name may say whether integers are rows or ids."""
    if entries.kind == "numbers" and name.strip().lower() in ROW_NAMES:
        return Entries("rows", entries.values)
    if entries.kind == "numbers" and name.strip().lower() in ID_NAMES:
        return Entries("ids", [str(value) for value in entries.values])
    return entries


def _of_list(values: list[Any], path: Path) -> Entries:
    """Entries of a JSON list; their kind follows from the types."""
    if all(isinstance(value, bool) for value in values):
        return Entries("mask", values)
    if all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        return Entries("numbers", values)
    if all(isinstance(value, str) for value in values):
        return Entries("ids", values)
    if all(isinstance(value, dict) for value in values):
        return _of_records(values, path)
    kinds = ", ".join(sorted({type(value).__name__ for value in values}))
    raise UserError(
        f"{path}: got entries of type {kinds}; expected all row indices (integers), all ids "
        f"(strings) or all LLaVA rows (objects). {TAKES}"
    )


def _of_records(values: list[dict[str, Any]], path: Path) -> Entries:
    """Records with a conversation as they are; records that only name a row or id as a table."""
    if any(value.keys() & {"conversations", "messages"} for value in values):
        return Entries("records", values)
    names = dict.fromkeys(name for value in values for name in value)
    if not names.keys() & set(_KNOWN):
        return Entries("records", values)
    return _of_columns({name: [value.get(name) for value in values] for name in names}, path)


def _of_lines(lines: list[str], path: Path) -> Entries:
    """Entries of a text: one per line, or a table with a header."""
    delimiter = next((mark for mark in "\t,;" if mark in lines[0]), None)
    if delimiter:
        table = list(csv.reader(lines, delimiter=delimiter, skipinitialspace=True))
        if len({len(row) for row in table}) != 1:
            raise UserError(
                f"{path}: lines of unlike length, as a table with {delimiter!r}. {TAKES}"
            )
        head, *rows = table
        if not rows and _numeric(head):
            return _of_words(head)
        if not rows:
            raise UserError(f"{path}: a header and no row. {TAKES}")
        columns = {name: [row[at] for row in rows] for at, name in enumerate(head)}
        return _of_columns(columns, path)
    words = lines[0].split()
    if len(lines) == 1 and _numeric(words):
        return _of_words(words)
    values = [line.strip('"') for line in lines]
    head_name = values[0].lower()
    if head_name in (*_KNOWN, SELECTED, "mask") and len(values) > 1:
        return _named(head_name, _of_words(values[1:]), path)
    if len(values) > 1 and not _INTEGER.fullmatch(values[0]) and _numeric(values[1:]):
        return _of_words(values[1:])
    return _of_words(values)


def _numeric(words: Sequence[str]) -> bool:
    return all(_INTEGER.fullmatch(word) and not _PADDED.fullmatch(word) for word in words)


def _of_words(words: list[str]) -> Entries:
    """Integers, if every word is a plainly written integer, a mask if each is true or false, else
    ids.
    """
    if all(word.lower() in ("true", "false") for word in words):
        return Entries("mask", [word.lower() == "true" for word in words])
    return Entries("numbers", list(map(int, words))) if _numeric(words) else Entries("ids", words)


def first_ten(values: Sequence[Any]) -> str:
    """The first ten values, for a message."""
    more = ", ..." if len(values) > FIRST else ""
    return ", ".join(ascii(value) for value in values[:FIRST]) + more
