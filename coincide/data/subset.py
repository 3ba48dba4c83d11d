"""Subsets as files: rows, ids, and the selected rows in formats that trainers read.

``rows.npy``      sorted int64 row indices of the annotation file, the subset's identity
``ids.json``      their ids, in the same order; not unique in LLaVA-665K
``subset.json``   the rows themselves, byte for byte as in the annotation file
``messages.json`` the same as ``{"messages": [{"role", "content"}], "images": [path]}``, for looking
                  at; other trainers' formats are written by ``python -m coincide.export``
``facts.json``    how the subset was made, without times

Image paths are relative to the dataset's image root.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coincide.data.blocks import ParsedRow
from coincide.data.exports import as_messages, read_rows
from coincide.data.resolve import check_rows, resolve_rows
from coincide.data.rows import scan
from coincide.data.table import Rows, collect_rows
from coincide.schema import Dataset, UserError
from coincide.system.files import write_array, write_json, write_list

__all__ = ["resolve_rows", "write_subset"]


def write_subset(
    folder: Path,
    dataset: Dataset,
    rows: Sequence[int] | np.ndarray,
    facts: Mapping[str, Any],
    *,
    told: Callable[[int], None] = lambda size: None,
) -> None:
    """Write the five files of the subset ``rows`` (in any order) into ``folder``.

    The same rows of the same dataset give the same bytes. ``told`` is called before the first is
    written, with the bytes that they take at least. Raises :class:`UserError` for rows out of range
    or given twice.
    """
    chosen = np.asarray(rows, dtype=np.int64)
    check_rows(chosen, len(dataset), "the selection")
    chosen = np.sort(chosen)
    examples = dataset.examples if isinstance(dataset.examples, Rows) else _read(dataset)
    told(chosen.nbytes + examples.text_bytes(chosen))
    write_array(folder / "rows.npy", chosen)
    write_json(folder / "ids.json", list(examples.ids(chosen)))
    write_list(folder / "subset.json", examples.texts(chosen.tolist()))
    said = map(as_messages, read_rows(folder / "subset.json"))
    messages = (json.dumps(record, ensure_ascii=False) for record in said)
    write_list(folder / "messages.json", messages)
    kept = {name: fact for name, fact in facts.items() if not name.endswith("seconds")}
    write_json(folder / "facts.json", kept)


def _read(dataset: Dataset) -> Rows:
    """The rows of the annotation file of a dataset whose examples were not read from a table."""
    found = collect_rows(
        ParsedRow(example, text)
        for example, (_, text, _) in zip(dataset.examples, scan(dataset.annotations), strict=False)
    )
    if len(found) != len(dataset):
        raise UserError(
            f"{dataset.annotations} has fewer rows than when it was read: it changed during the "
            "run. Start again; the subset will be keyed by the new content."
        )
    return found
