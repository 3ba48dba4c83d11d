"""Find the rows of a dataset that a file made elsewhere names, or refuse what is ambiguous."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coincide.data.columns import ids as ids_of
from coincide.data.convert import to_llava
from coincide.data.entries import TAKES, Entries, first_ten, read_entries
from coincide.data.fault import BadRow
from coincide.data.parse import IMAGE, parse
from coincide.schema import Example, UserError

BY = ("auto", "row", "id")


def resolve_rows(path: Path, examples: Sequence[Example], by: str = "auto") -> np.ndarray:
    """Row indices int64 [k], in the file's order, of a subset made elsewhere.

    ``path``: any format of :data:`coincide.data.entries.TAKES`. ``by``: what its entries are:
    ``row`` indices, ``id``, or ``auto`` if file and dataset leave no doubt. Records are matched by
    images and text, and by id if they have one. A record whose id belongs to one row with the same
    images but other text is matched to that row, and reported. Identical rows of the dataset are
    taken one after the other. Raises :class:`UserError`, naming the first ten, for ambiguous or
    unknown entries, rows out of range and duplicates.
    """
    entries = read_entries(path)
    if entries.kind == "mask":
        rows = _of_mask(entries.values, len(examples), path)
    elif entries.kind == "records" and by != "row":
        rows = _rows_of_records(entries.values, examples, path, by)
    elif entries.kind == "ids" or by == "id":
        rows = _of_words(entries, examples, path, by)
    elif entries.kind == "records":
        raise UserError(f"{path}: method.by=row, but the file holds records without a row index.")
    else:
        rows = [int(value) for value in entries.values]
        if by == "auto" and entries.kind == "numbers":
            _refuse_ambiguous(rows, examples, path)
    check_rows(rows, len(examples), str(path))
    if entries.ids is not None and entries.kind == "rows" and by != "id":
        _check_ids(rows, entries.ids, examples, path)
    return np.asarray(rows, dtype=np.int64)


def _of_mask(values: Sequence[bool], size: int, path: Path) -> list[int]:
    if len(values) != size:
        raise UserError(
            f"{path}: a mask of {len(values):,} values (bool [{len(values)}]); the dataset has "
            f"{size:,} rows. Expected a value for each row."
        )
    rows = np.flatnonzero(values).tolist()
    if not rows:
        raise UserError(f"{path}: a mask without one true value; expected at least one row.")
    return rows


def _of_words(entries: Entries, examples: Sequence[Example], path: Path, by: str) -> list[int]:
    """Rows by id; with ``by`` ``row`` the words are row indices."""
    values = entries.values
    if by == "id" and entries.kind == "rows" and entries.ids is not None:
        values = entries.ids
    if by != "row":
        return _rows_of_ids([str(value) for value in values], examples, path)
    wrong = [
        value for value in values if not value.strip().isascii() or not value.strip().isdigit()
    ]
    refuse(wrong, "entries that are no row indices (method.by=row)", path)
    return [int(value) for value in values]


def _refuse_ambiguous(numbers: Sequence[int], examples: Sequence[Example], path: Path) -> None:
    """Refuse integers that may be ids as well as rows, unless both readings give the same rows."""
    rows_of = _rows_by_id(examples, {str(number) for number in numbers})
    if all(rows_of.get(str(number)) == [number] for number in numbers):
        return
    integer_ids = all(i.removeprefix("-").isdecimal() for i in ids_of(examples) if i)
    known = [number for number in numbers if str(number) in rows_of]
    if not any(ids_of(examples)) or not (integer_ids or len(known) == len(numbers)):
        return
    shown = next((n for n in numbers if rows_of.get(str(n), [n]) != [n]), numbers[0])
    elsewhere = rows_of.get(str(shown))
    also = f"the id of row {elsewhere[0]}" if elsewhere else "no id of the dataset"
    raise UserError(
        f"{path}: {len(numbers):,} integers ({first_ten(numbers)}), and the dataset's own ids are "
        f"integers: {shown} is row {shown} or the id {shown} ({also}). Say which is meant: "
        "method.by=row or method.by=id. An .npy of integers is row indices, a list of strings is "
        "ids."
    )


def _check_ids(
    rows: Sequence[int], ids: Sequence[str], examples: Sequence[Example], path: Path
) -> None:
    """Refuse a table whose ids are not those of the dataset at its rows."""
    named = [(row, identity) for row, identity in zip(rows, ids, strict=True) if identity]
    other = [row for row, identity in named if identity != examples[row].id]
    refuse(
        other,
        "rows at which the dataset has another id than the table; it is of other data. Give "
        "method.by=id, or a table without ids. Rows",
        path,
    )


# --- ids ----------------------------------------------------------------------------------------


def _rows_by_id(examples: Sequence[Example], wanted: set[str]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = defaultdict(list)
    for row, identity in enumerate(ids_of(examples)):
        if identity and identity in wanted:
            rows[identity].append(row)
    return dict(rows)


def _rows_of_ids(ids: Sequence[str], examples: Sequence[Example], path: Path) -> list[int]:
    rows = _rows_by_id(examples, set(ids))
    refuse([i for i in ids if i not in rows], "ids that the dataset does not have", path)
    several = [i for i in dict.fromkeys(ids) if len(rows[i]) > 1]
    refuse(several, "ids that several rows of the dataset carry; give row indices instead", path)
    return [rows[identity][0] for identity in ids]


# --- records ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Said:
    """Turns and pictures of a row, comparable between formats.

    Pictures may have absolute or copied paths.
    """

    turns: tuple[tuple[str, str], ...]
    names: tuple[str, ...]
    """File names of the pictures, without folders."""


def _rows_of_records(
    records: Sequence[Mapping[str, Any]], examples: Sequence[Example], path: Path, by: str
) -> list[int]:
    wanted = _parsed(records, path)
    if by == "id":
        refuse([e.row for e in wanted if not e.id], "entries without an id", path)
        return _rows_of_ids([e.id for e in wanted], examples, path)
    fitting = _fitting(wanted, examples)
    known = _rows_by_id(examples, {e.id for e in wanted})
    taken: set[int] = set()
    rows: list[int] = []
    missing: list[int] = []
    unlike: list[int] = []
    unclear: list[int] = []
    retold: list[int] = []
    for entry, fit in zip(wanted, fitting, strict=True):
        left = [row for row in fit if row not in taken]
        named = known.get(entry.id, [])
        if not fit and len(named) == 1 and _same_pictures(entry, examples[named[0]]):
            fit = named
            left = [row for row in named if row not in taken]
            retold.append(entry.row)
        if not left:
            (unlike if entry.id in known and not fit else missing).append(entry.row)
        elif len({examples[row].id for row in left}) > 1:
            unclear.append(entry.row)
        else:
            rows.append(left[0])
            taken.add(left[0])
    refuse(missing, "entries that the dataset does not have, or not that often", path)
    refuse(unlike, "entries whose id the dataset has with other images or text", path)
    refuse(unclear, "entries without an id that rows of several ids fit alike; give ids", path)
    if retold:
        print(
            f"{path}: {len(retold):,} entries say their row, found by its id, in other words than "
            f"the dataset, whose words are taken: {first_ten(retold)}",
            flush=True,
        )
    return rows


def _fitting(wanted: Sequence[Example], examples: Sequence[Example]) -> list[list[int]]:
    """For each record, the rows that it may be: those with its id, or without an id those with its
    content.
    """
    keys = [_said(entry) for entry in wanted]
    rows: dict[_Said, list[int]] = {key: [] for key in keys}
    for example in examples:
        if example.turns and (key := _said(example)) in rows:
            rows[key].append(example.row)
    found = []
    for entry, key in zip(wanted, keys, strict=True):
        fit = [row for row in rows[key] if _same_pictures(entry, examples[row])]
        own = [row for row in fit if examples[row].id == entry.id]
        found.append(own if entry.id or own else fit)
    return found


def _parsed(records: Sequence[Mapping[str, Any]], path: Path) -> list[Example]:
    """The records as examples; ``row`` is the record's number."""
    found, wrong = [], []
    for number, record in enumerate(records):
        try:
            found.append(_example(number, record))
        except BadRow as fault:
            wrong.append((number, fault))
    if wrong:
        reasons = "; ".join(sorted({str(fault) for _, fault in wrong})[:3])
        raise UserError(
            f"{path}: {len(wrong):,} entries that are no LLaVA rows nor messages: "
            f"{first_ten([number for number, _ in wrong])} ({reasons}). {TAKES}"
        )
    return found


def _example(number: int, record: Mapping[str, Any]) -> Example:
    value = dict(record)
    said = value.get("conversations")
    if not isinstance(said, list) or any(isinstance(t, dict) and "role" in t for t in said):
        value = to_llava(value, Path("/"))
    elif "images" in value and "image" not in value:
        value["image"] = value["images"]
    example, _, fault = parse(number, value, lambda _: "", tags_as_text=True)
    if fault:
        raise fault
    return example


def _said(example: Example) -> _Said:
    """The comparable content, without white space around pictures, which messages cannot
    preserve.
    """
    turns = [
        (
            turn.role,
            IMAGE.join(part.strip() for part in turn.text.split(IMAGE))
            if IMAGE in turn.text
            else turn.text,
        )
        for turn in example.turns
    ]
    return _Said(tuple(turns), tuple(name.rsplit("/", 1)[-1] for name in example.images))


def _same_pictures(entry: Example, example: Example) -> bool:
    return len(entry.images) == len(example.images) and all(
        mine == its or mine.endswith(f"/{its}")
        for mine, its in zip(entry.images, example.images, strict=True)
    )


# --- refusals -----------------------------------------------------------------------------------


def check_rows(rows: Sequence[int] | np.ndarray, size: int, where: str) -> None:
    """Raise UserError for row indices outside the dataset or given twice."""
    listed = rows.tolist() if isinstance(rows, np.ndarray) else rows
    outside = [row for row in listed if not 0 <= row < size]
    refuse(outside, f"row indices outside 0..{size - 1}", where)
    found = np.asarray(rows, dtype=np.int64)
    distinct, first, counts = np.unique(found, return_index=True, return_counts=True)
    twice = distinct[counts > 1][np.argsort(first[counts > 1])]
    refuse(twice.tolist(), "rows given more than once", where)


def refuse(found: Sequence[Any], what: str, where: Path | str) -> None:
    """Raise :class:`UserError` naming the first ten of ``found``, if there are any."""
    if found:
        raise UserError(f"{where}: {len(found):,} {what}: {first_ten(found)}.")
