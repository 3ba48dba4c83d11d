"""Subsets as files: rows, ids, and the selected rows in formats that trainers read.

``rows.npy``      sorted int64 row indices of the annotation file, the subset's identity
``ids.json``      their ids, in the same order; not unique in LLaVA-665K
``subset.json``   the rows themselves, byte for byte as the annotation file has them
``messages.json`` the same as ``{"messages": [{"role", "content"}], "images": [path]}``
``facts.json``    how the subset was made, without times

Image paths stay relative to the dataset's image root.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coincide.data.parse import parse
from coincide.data.report import FIRST
from coincide.data.rows import scan
from coincide.files import write_atomic, write_json
from coincide.schema import Dataset, Example, UserError


@dataclass(frozen=True)
class Subset:
    """A subset read back: ``rows`` int64 [k] sorted, ``ids`` of equal length."""

    rows: np.ndarray
    ids: tuple[str, ...]
    annotations: Path
    """The selected rows as LLaVA json."""
    facts: Mapping[str, Any]


def write_subset(
    folder: Path, dataset: Dataset, rows: Sequence[int] | np.ndarray, facts: Mapping[str, Any]
) -> None:
    """Write the five files of the subset ``rows`` (in any order) into ``folder``.

    The same rows of the same dataset give the same bytes. Raises :class:`UserError` for rows
    out of range or given twice.
    """
    chosen = np.asarray(rows, dtype=np.int64)
    _check_rows(chosen.tolist(), len(dataset), "the selection")
    chosen = np.sort(chosen)
    examples = [dataset.examples[row] for row in chosen]
    write_atomic(folder / "rows.npy", lambda path: _save(path, chosen))
    write_json(folder / "ids.json", [example.id for example in examples])
    texts = _texts(dataset.annotations, chosen)
    write_atomic(folder / "subset.json", lambda path: _write_list(path, texts))
    messages = [json.dumps(as_messages(e), ensure_ascii=False) for e in examples]
    write_atomic(folder / "messages.json", lambda path: _write_list(path, messages))
    kept = {name: fact for name, fact in facts.items() if not name.endswith("seconds")}
    write_json(folder / "facts.json", kept)


def read_subset(folder: Path) -> Subset:
    """The subset in ``folder``, as :func:`write_subset` left it."""
    rows = np.load(folder / "rows.npy", allow_pickle=False)
    ids, facts = (
        json.loads((folder / name).read_text(encoding="utf-8"))
        for name in ("ids.json", "facts.json")
    )
    return Subset(rows, tuple(ids), folder / "subset.json", facts)


FORMATS = ("llava", "sharegpt", "messages", "ids", "npy")
_FILES = {"llava": "subset.json", "messages": "messages.json", "ids": "ids.json", "npy": "rows.npy"}


def export_subset(folder: Path, form: str, out: Path) -> int:
    """Write the subset in ``folder`` to the file ``out`` as one of ``FORMATS``; how many rows.

    Raises :class:`UserError` for another format, and for a folder that holds no subset.
    """
    if form not in FORMATS:
        raise UserError(f"got the format {form!r}; the choices are {', '.join(FORMATS)}.")
    source = folder / _FILES.get(form, "subset.json")
    for path in (source, folder / "rows.npy"):
        if not path.is_file():
            raise UserError(f"{folder} is no subset: it has no {path.name}.")
    out.parent.mkdir(parents=True, exist_ok=True)
    if form == "sharegpt":
        records = (
            json.dumps(as_sharegpt(value), ensure_ascii=False) for _, _, value in scan(source)
        )
        write_atomic(out, lambda path: _write_list(path, records))
    else:
        write_atomic(out, lambda path: _copy(source, path))
    return len(np.load(folder / "rows.npy", allow_pickle=False))


def _copy(source: Path, path: Path) -> None:
    shutil.copyfile(source, path)


def as_sharegpt(record: Mapping[str, Any]) -> dict[str, Any]:
    """A LLaVA row with its ``image``, one or several or none, as the list ``images``."""
    image = record.get("image")
    images = image if isinstance(image, list) else [image] if image else []
    return {**{k: v for k, v in record.items() if k != "image"}, "images": images}


def as_messages(example: Example) -> dict[str, Any]:
    """The messages form of other trainers (OpenAI roles, ``<image>`` placeholders kept)."""
    roles = {"human": "user", "gpt": "assistant"}
    messages = [{"role": roles[turn.role], "content": turn.text} for turn in example.turns]
    return {"id": example.id, "messages": messages, "images": list(example.images)}


def resolve_rows(path: Path, examples: Sequence[Example]) -> np.ndarray:
    """Row indices int64 [k], in the file's order, of a subset made elsewhere.

    ``path`` is an ``.npy`` of row indices, or a JSON list of row indices (numbers), of ids
    (strings) or of LLaVA rows (objects, matched by id, images and text). Refuses, with the first
    ten: ambiguous and unknown ids, rows out of range, duplicates, rows that the dataset lacks.
    """
    entries = _entries(path)
    if all(isinstance(entry, dict) for entry in entries):
        rows = _rows_of_records(entries, examples, path)
    elif all(isinstance(entry, str) for entry in entries):
        rows = _rows_of_ids(entries, examples, path)
    elif all(isinstance(entry, int) and not isinstance(entry, bool) for entry in entries):
        rows = entries
    else:
        kinds = ", ".join(sorted({type(entry).__name__ for entry in entries}))
        raise UserError(f"{path}: got entries of type {kinds}; expected {_EXPECTED}.")
    _check_rows(rows, len(examples), str(path))
    return np.asarray(rows, dtype=np.int64)


_EXPECTED = "all row indices (integers), all ids (strings) or all LLaVA rows (objects)"


def _entries(path: Path) -> list[Any]:
    if path.suffix != ".npy":
        return [value for _, _, value in scan(path)]
    return index_array(path).tolist()


def index_array(path: Path) -> np.ndarray:
    """Row indices int [k] of an ``.npy`` file, in its order; refuses anything else in it."""
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: no array of row indices ({error}).") from None
    if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype.kind not in "iu":
        got = (
            f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else "an archive"
        )
        raise UserError(f"{path}: expected integer row indices [k], got {got}.")
    if not len(array):
        raise UserError(f"{path}: an empty array; expected at least one row index.")
    return array


def _rows_of_ids(ids: Sequence[str], examples: Sequence[Example], path: Path) -> list[int]:
    wanted = set(ids)
    rows: dict[str, list[int]] = defaultdict(list)
    for example in examples:
        if example.id and example.id in wanted:
            rows[example.id].append(example.row)
    _refuse([i for i in ids if i not in rows], "ids that the dataset does not have", path)
    several = [i for i in dict.fromkeys(ids) if len(rows[i]) > 1]
    _refuse(several, "ids that several rows of the dataset carry; give row indices instead", path)
    return [rows[identity][0] for identity in ids]


def _rows_of_records(
    records: Sequence[dict[str, Any]], examples: Sequence[Example], path: Path
) -> list[int]:
    """Identical rows of the dataset are taken one after the other."""
    parsed = [parse(number, record, lambda _: "") for number, record in enumerate(records)]
    _refuse([e.row for e, _, fault in parsed if fault], "entries that are no LLaVA rows", path)
    keys = [(e.id, e.images, e.turns) for e, _, _ in parsed]
    left: dict[Any, list[int]] = {key: [] for key in keys}
    for example in examples:
        key = (example.id, example.images, example.turns)
        if key in left:
            left[key].append(example.row)
    missing = [
        number
        for number, (key, nth) in enumerate(zip(keys, _occurrence(keys), strict=True))
        if nth >= len(left[key])
    ]
    _refuse(missing, "entries that the dataset does not have, or not that often", path)
    return [left[key][nth] for key, nth in zip(keys, _occurrence(keys), strict=True)]


def _occurrence(keys: Iterable[Any]) -> Iterable[int]:
    """0 for a key's first appearance, 1 for its second, and so on."""
    seen: Counter[Any] = Counter()
    for key in keys:
        yield seen[key]
        seen[key] += 1


def _check_rows(rows: Sequence[int], size: int, where: str) -> None:
    outside = [row for row in rows if not 0 <= row < size]
    _refuse(outside, f"row indices outside 0..{size - 1}", where)
    twice = [row for row, count in Counter(rows).items() if count > 1]
    _refuse(twice, "rows given more than once", where)


def _refuse(found: Sequence[Any], what: str, where: Path | str) -> None:
    if found:
        more = ", ..." if len(found) > FIRST else ""
        shown = ", ".join(ascii(item) for item in found[:FIRST])
        raise UserError(f"{where}: {len(found):,} {what}: {shown}{more}.")


def _texts(annotations: Path, rows: np.ndarray) -> list[str]:
    """The rows' text in the annotation file, verbatim."""
    wanted = set(rows.tolist())
    texts = [text for row, text, _ in scan(annotations) if row in wanted]
    if len(texts) != len(wanted):
        raise UserError(
            f"{annotations} has fewer rows than when it was read: it changed during the run. "
            "Start again; the subset will be keyed by the new content."
        )
    return texts


def _write_list(path: Path, items: Iterable[str]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as handle:
        handle.write("[\n" + ",\n".join(items) + "\n]\n")


def _save(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as handle:
        np.save(handle, array, allow_pickle=False)
