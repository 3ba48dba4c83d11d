"""Judge the rows of a table: what is wrong with them and their pictures, and what policies do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import compute

from coincide.data.blocks import TEXT, as_bytes, as_text
from coincide.data.listing import missing_files
from coincide.data.nearby import MOST, Neighbours
from coincide.data.reasons import Reasons
from coincide.data.report import FIRST, DataReport, Policies
from coincide.data.states import States
from coincide.data.table import Rows, Shown
from coincide.schema import Dataset

Missing = Callable[[pa.Array], np.ndarray]
"""Of names, an Arrow array of bytes [n]: bool [n], those that are no pictures."""


def judge(
    rows: Rows,
    annotations: Path,
    image_root: Path,
    *,
    name: str,
    policies: Policies,
    corrupt: Mapping[str, str],
    missing: Missing,
) -> tuple[Dataset, DataReport]:
    """The dataset of ``rows``, with those left out that have a fault, and the report.

    Faulty rows are dropped even if their policy is ``error``. ``corrupt``: picture -> reason, for
    those known not to decode.
    """
    report = DataReport(name)
    blank: list[int] = []
    shown = rows.shown()

    def faults() -> Iterator[tuple[int, str]]:
        for row, kind, detail in rows.faults():
            report.add(kind, "on_bad_row", row, _source(rows, row), detail)
            yield row, kind
        for row, kind, policy, detail in _image_faults(shown, image_root, corrupt, missing):
            report.add(kind, policy, row, _source(rows, row), detail)
            if getattr(policies, policy) == "blank":
                blank.append(row)
            else:
                yield row, kind

    dropped = Reasons.of(len(rows), faults())
    blanks = frozenset(row for row in blank if row not in dropped)
    _count(report, rows, shown, len(dropped), len(blanks))
    return Dataset(name, annotations, image_root, rows, dropped, blanks), report


def looked_for(image_root: Path) -> Missing:
    """Names are looked for below ``image_root``."""

    def missing(names: pa.Array) -> np.ndarray:
        found = missing_files(image_root, map(as_text, names.to_pylist()))
        lost = pa.array(map(as_bytes, sorted(found)), TEXT)
        return compute.is_in(names, value_set=lost).to_numpy(zero_copy_only=False)

    return missing


def as_seen(states: States, image_root: Path) -> Missing:
    """Names are looked up in ``states``, which knows all files; cells of shards are looked for."""

    def missing(names: pa.Array) -> np.ndarray:
        lost = states.missing(names)
        cells = np.flatnonzero(compute.match_substring(names, b"#").to_numpy(zero_copy_only=False))
        if len(cells):
            lost[cells] = looked_for(image_root)(names.take(pa.array(cells)))
        return lost

    return missing


def _source(rows: Rows, row: int) -> str:
    return rows.sources.names[rows.sources.codes[row]]


def _image_faults(
    shown: Shown, image_root: Path, corrupt: Mapping[str, str], missing: Missing
) -> Iterator[tuple[int, str, str, str]]:
    """``(row, kind, policy, detail)`` for rows with missing or corrupt images, by row."""
    lost = missing(shown.names)
    known = pa.array(map(as_bytes, corrupt), TEXT)
    broken = compute.is_in(shown.names, value_set=known).to_numpy(zero_copy_only=False) & ~lost
    if not (lost | broken).any():
        return
    told = ""
    for row in np.unique(shown.row_of[(lost | broken)[shown.codes]]).tolist():
        codes = shown.codes[shown.starts[row] : shown.starts[row + 1]]
        if (gone := codes[lost[codes]]).size:
            # the report shows the first alone
            told = told or _described(shown, int(gone[0]), lost, image_root)
            yield row, "missing image", "on_missing_image", told
        if (bad := codes[broken[codes]]).size:
            name = shown.name(int(bad[0]))
            yield row, "corrupt image", "on_corrupt_image", f"{name}: {corrupt[name]}"


def _described(shown: Shown, first: int, lost: np.ndarray, image_root: Path) -> str:
    """What is told of the missing picture ``first``, and of all that are ``lost``."""
    names = shown.names.filter(pa.array(lost))
    some = names.take(compute.sort_indices(names)[:MOST])
    looked = list(map(as_text, some.to_pylist()))
    return Neighbours(image_root).describe(shown.name(first), looked, len(names))


def _count(report: DataReport, rows: Rows, shown: Shown, dropped: int, blank: int) -> None:
    turns = rows.column("turns")
    report.rows, report.dropped, report.blank = len(rows), dropped, blank
    report.text_only = int(((turns > 0) & ~rows.pictured).sum())
    report.turns = int(turns.sum(dtype=np.int64))
    report.unlearnt_turns = rows.unlearnt()
    report.left_out_turns = int(rows.column("left_out").sum(dtype=np.int64))
    report.images = len(shown.names)
    report.sources = rows.sources.counts()
    repeated, report.without_id = rows.repeated_ids()
    report.duplicate_ids, report.duplicate_ids_first = len(repeated), repeated[:FIRST]
