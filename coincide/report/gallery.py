"""The clusters that COINCIDE selected from: scores, number of rows taken, and examples."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from coincide.data.parse import parse
from coincide.data.rows import scan
from coincide.ledger.evidence import ArtifactShelf, array
from coincide.ledger.result import Result
from coincide.report.pictures import Budget, training_picture
from coincide.report.records import Panel, PanelRow
from coincide.schema import Example, UserError
from coincide.system.files import items_of_list
from coincide.terminal.inert import printable

EXAMPLES = 3
"""Examples shown per cluster, unless there are many."""
MANY = 1000
"""With more clusters than this, each shows one example."""
LETTERS = 160
SIDE = 96
TEXTS = 6_000_000
"""Characters of examples on a page, over all panels: those of the clusters that gave most rows."""
SMALL = 64 << 20
"""Bytes: of a larger annotation file only the chosen rows are read."""
COLUMNS = ("size", "transferability", "density", "score", "chosen")


def gallery(
    panel: Panel, shelf: ArtifactShelf, budget: Budget, texts: int = TEXTS
) -> dict[str, Any] | None:
    """The clusters of the best ranked run that has them in the store, as JSON; None without one.

    ``columns``: one list per figure. ``examples``: per cluster, ``[question, answer, picture,
    chosen]``. Examples go to the clusters that gave most rows, at most ``texts`` characters of
    them, and pictures until the budget of bytes is used up.
    """
    for row in panel.rows:
        for run in row.runs:
            folder = shelf.subset(run)
            table = shelf.file(folder, "clusters.parquet") if folder else None
            if folder is not None and table is not None:
                return _gallery(row, run, folder, table, shelf, budget, texts)
    return None


def _gallery(
    row: PanelRow, run: Result, folder: Path, table: Path, shelf: ArtifactShelf, budget: Budget,
    texts: int,
) -> dict[str, Any] | None:  # fmt: skip
    columns = _columns(table)
    if columns is None:
        return None
    clusters = shelf.need(folder, "clusters")
    assigned = shelf.file(clusters, "assignment.npy") if clusters else None
    count = len(columns["size"])
    order = sorted(range(count), key=lambda i: (-(columns["chosen"][i] or 0), i))
    each = EXAMPLES if count <= MANY else 1
    order = order[: max(1, texts // (2 * LETTERS * each))]
    members, chosen = _members(assigned, shelf.rows(run), order, each)
    wanted = {row for rows in members for row in rows}
    examples, root = examples_of(shelf, run, folder, wanted)
    shown: list[list[Any]] = [[] for _ in range(count)]
    for cluster, rows in zip(order, members, strict=True):
        for number in rows:
            if number in examples:
                shown[cluster].append(_shown(examples[number], root, budget, number in chosen))
    why = "" if any(e[2] for each in shown for e in each) else _no_pictures(clusters, root)
    few = f"Examples are here of the {len(order):,} that gave most rows. "
    return {
        "label": printable(f"{row.label}, seed {run.seed}"),
        "columns": columns,
        "no_pictures": (few if len(order) < count and any(shown) else "") + why,
        "examples": printable(shown, keep="\n"),
    }


def _columns(path: Path) -> dict[str, list[float | None]] | None:
    """The figures of each cluster; None if the table is damaged or belongs to another method."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError):
        return None
    if not set(COLUMNS) <= set(table.column_names):
        return None
    return {name: [_number(v) for v in table.column(name).to_pylist()] for name in COLUMNS}


def _number(value: float | None) -> float | None:
    """Rounded to six digits; None for the NaN of an empty cluster."""
    if value is None or isinstance(value, int):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _members(
    assigned: Path | None, rows: np.ndarray | None, clusters: Sequence[int], each: int
) -> tuple[list[list[int]], set[int]]:
    """``each`` rows of each of ``clusters``, chosen ones first; and those of them that were
    chosen.
    """
    assignment = array(assigned) if assigned else None
    if assignment is None:
        return [[] for _ in clusters], set()
    chosen = np.zeros(len(assignment), bool)
    if rows is not None:
        chosen[rows[(rows >= 0) & (rows < len(chosen))]] = True
    order = np.lexsort((~chosen, assignment))  # stable: by row then
    first = np.searchsorted(assignment, clusters, sorter=order)
    last = np.searchsorted(assignment, clusters, "right", sorter=order)
    found = [order[a:b][:each].tolist() for a, b in zip(first, last, strict=True)]
    return found, {row for rows in found for row in rows if chosen[row]}


def examples_of(
    shelf: ArtifactShelf, run: Result, folder: Path, wanted: set[int]
) -> tuple[dict[int, Example], Path | None]:
    """Row -> example, for those rows of the subset in ``folder`` in ``wanted`` that are available;
    and the folder of their pictures.
    """
    data = shelf.need(folder, "data")
    root = shelf.pictures(data, run.config)
    whole = shelf.file(data, "train.json") if data else None
    if whole is not None and whole.stat().st_size <= SMALL:
        return _read(whole, wanted, None), root
    chosen = shelf.file(folder, "subset.json")
    found = _read(chosen, wanted, shelf.rows(run)) if chosen else {}
    index = shelf.file(data, "examples.parquet") if data else None
    return (_with_sources(found, index) if index else found), root


def _read(path: Path, wanted: set[int], rows: np.ndarray | None) -> dict[int, Example]:
    """Row -> example of a LLaVA json file; ``rows``: dataset row of each of its entries."""
    if not path.is_file():
        return {}
    found = {}
    try:
        for number, value in _values(path, wanted, rows):
            found[number] = parse(number, value, _stated, tags_as_text=True)[0]
    except (UserError, ValueError):
        return found
    return found


def _values(path: Path, wanted: set[int], rows: np.ndarray | None) -> Iterator[tuple[int, Any]]:
    """Number and value of the ``wanted`` rows of the file."""
    if rows is not None:
        places = np.flatnonzero(np.isin(rows, list(wanted)))
        texts = items_of_list(path, len(rows), places.tolist())
        if texts is not None:
            yield from zip(rows[places].tolist(), map(json.loads, texts), strict=True)
            return
    for place, _, value in scan(path):
        if rows is not None and place >= len(rows):
            return
        number = place if rows is None else int(rows[place])
        if number in wanted:
            yield number, value


def _stated(value: Mapping[str, Any]) -> str:
    """The source that a row itself names, as those of the demo do."""
    return str(value.get("source") or "")


def _with_sources(found: Mapping[int, Example], index: Path) -> dict[int, Example]:
    """The examples with the sources that the dataset's ``index`` (examples.parquet) has."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    numbers = pa.array(list(found), pa.int64())
    try:
        table = pq.read_table(index, columns=["row", "source"])
        table = table.filter(pc.is_in(table.column("row"), value_set=numbers))
    except (pa.ArrowInvalid, OSError):
        return dict(found)
    named = zip(table.column("row").to_pylist(), table.column("source").to_pylist(), strict=True)
    return {**found, **{row: replace(found[row], source=str(source)) for row, source in named}}


def _shown(example: Example, root: Path | None, budget: Budget, chosen: bool) -> list[Any]:
    said: dict[str, list[str]] = defaultdict(list)
    for turn in example.turns:
        said[turn.role].append(turn.text.replace("<image>", "").strip())
    picture = ""
    if root is not None and example.images and budget:
        picture = budget.uri(training_picture(root, example.images[0]), SIDE)
    return [_brief(said["human"]), _brief(said["gpt"]), picture, chosen]


def _brief(texts: Iterable[str]) -> str:
    text = next(iter(texts), "")
    return text if len(text) <= LETTERS else f"{text[:LETTERS]}…"


def _no_pictures(clusters: Path | None, root: Path | None) -> str:
    if clusters is None:
        return "Which rows are in which cluster is not in this store."
    return "" if root else "The pictures of the dataset are not on this machine."
