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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coincide.data.entries import index_array
from coincide.data.marks import LOSS
from coincide.data.resolve import check_rows, resolve_rows
from coincide.data.rows import scan
from coincide.files import write_atomic, write_json
from coincide.schema import Dataset, Example, Turn, UserError

__all__ = [
    "FORMATS", "Subset", "as_messages", "as_sharegpt", "export_subset", "index_array",
    "read_subset", "resolve_rows", "write_subset",
]  # fmt: skip


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
    check_rows(chosen.tolist(), len(dataset), "the selection")
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
    """The messages form of other trainers (OpenAI roles, ``<image>`` placeholders kept).

    An answer that is not to be learnt has ``"loss": false``, as ms-swift reads it.
    """
    messages = [as_message(turn) for turn in example.turns]
    return {"id": example.id, "messages": messages, "images": list(example.images)}


def as_message(turn: Turn) -> dict[str, Any]:
    """``turn`` with OpenAI's role."""
    role = {"human": "user", "gpt": "assistant"}[turn.role]
    return {"role": role, "content": turn.text, **({} if turn.learn else {LOSS: False})}


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
