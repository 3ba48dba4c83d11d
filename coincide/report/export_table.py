"""``--as table``: every row of a dataset with what selection knows about it, as parquet.

Columns: ``row`` int64; ``id``, ``source`` text; ``images``, ``turns`` int64 (numbers); ``dropped``
text (why a policy left the row out); ``score`` float32, by which the method ranks; ``cluster``
int32; ``rank`` int64, 0 for the row that the method took first, continuing beyond the budget;
``selected`` bool. A value that is not known is null, never 0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from coincide.data.rows import scan
from coincide.ledger.evidence import ArtifactShelf
from coincide.schema import UserError
from coincide.store import MANIFEST, check_path
from coincide.system.files import write_atomic

if TYPE_CHECKING:
    import pyarrow as pa

ORDER = "order.npy"
"""File of a subset artifact: rows int64 in the order in which the method takes them."""


def export_table(folder: Path, shelf: ArtifactShelf, out: Path) -> tuple[list[str], int]:
    """Write the table of the subset in ``folder`` to ``out``.

    Returns notes on what is missing, and the number of rows.
    """
    from pyarrow import parquet

    table, notes = pool_table(folder, shelf)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, lambda path: parquet.write_table(table, path))
    return notes, table.num_rows


def pool_table(folder: Path, shelf: ArtifactShelf) -> tuple[pa.Table, list[str]]:
    """The table, and notes on columns that are null because an artifact is not in the store.

    Raises UserError if ``folder`` is no subset.
    """
    import pyarrow as pa

    chosen = _array(folder / "rows.npy")
    if chosen is None:
        raise UserError(f"{folder} is no subset: it has no rows.npy.")
    size = _size(folder)
    facts, notes = _of_data(folder, shelf, size)
    clusters = need(folder, "clusters", shelf)
    cluster = _array(clusters / "assignment.npy") if clusters else None
    score = _score(folder, shelf)
    order = _array(folder / ORDER)
    if order is None:
        notes.append("no rank: the subset was selected before ranks were kept; select it again")
    rank = np.full(size, -1, np.int64)
    if order is not None:
        rank[order] = np.arange(len(order))
    columns = {
        "row": pa.array(range(size), pa.int64()),
        **facts,
        "score": _known(score, size, pa.float32(), None if score is None else np.isnan(score)),
        "cluster": _known(cluster, size, pa.int32(), None if cluster is None else cluster < 0),
        "rank": pa.array(rank, mask=rank < 0),
        "selected": pa.array(np.isin(np.arange(size), chosen)),
    }
    return pa.table(columns), notes


def need(folder: Path, kind: str, shelf: ArtifactShelf) -> Path | None:
    """The artifact of ``kind`` that the subset in ``folder`` was made from; None if not there.

    A subset that was copied without its manifest does not name any.
    """
    return shelf.need(folder, kind) if (folder / MANIFEST).is_file() else None


def _size(folder: Path) -> int:
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    size = facts.get("rows")
    if not isinstance(size, int):
        raise UserError(f"{folder / 'facts.json'}: expected the dataset's rows, got {size!r}.")
    return size


def _known(values: np.ndarray | None, size: int, kind: Any, unknown: np.ndarray | None) -> Any:
    """A column of ``size`` values; null where there is no value."""
    import pyarrow as pa

    if values is None or len(values) != size:
        return pa.nulls(size, kind)
    return pa.array(values, kind, mask=unknown)


def _score(folder: Path, shelf: ArtifactShelf) -> np.ndarray | None:
    """The score by which the method ranked, float32 [N], NaN: none; None if not there."""
    own = _array(folder / "scores.npy")
    scores = need(folder, "scores", shelf)
    return own if own is not None or scores is None else _array(scores / "score.npy")


def _of_data(folder: Path, shelf: ArtifactShelf, size: int) -> tuple[Mapping[str, Any], list[str]]:
    """Columns from the data artifact: its index, or the rows themselves; and notes on missing
    ones.
    """
    import pyarrow as pa
    from pyarrow import parquet

    kinds = {"id": pa.string(), "source": pa.string(), "images": pa.int64(), "turns": pa.int64(),
             "dropped": pa.string()}  # fmt: skip
    data = need(folder, "data", shelf)
    if data is not None and (data / "examples.parquet").is_file():
        check_path(data / "examples.parquet")
        table = parquet.read_table(data / "examples.parquet")
        return {name: table.column(name).cast(kind) for name, kind in kinds.items()}, []
    if data is not None and (data / "train.json").is_file():
        rows = [_fields(value) for _, _, value in scan(data / "train.json")]
        return {n: pa.array([row.get(n) for row in rows], kind) for n, kind in kinds.items()}, []
    columns: dict[str, Any] = {name: pa.nulls(size, kind) for name, kind in kinds.items()}
    columns["id"] = pa.array(_ids(folder, size), pa.string())
    return columns, [
        "the data artifact is not in the store: ids are of the selected rows alone, and there are "
        "no sources; name its store by --store"
    ]


def _fields(record: Mapping[str, Any]) -> dict[str, Any]:
    image, identity = record.get("image"), record.get("id")
    images = len(image) if isinstance(image, list) else int(bool(image))
    said = record.get("conversations", ())
    return {
        "id": None if identity is None else str(identity),
        "source": record.get("source"),
        "images": images,
        "turns": len(said),
    }


def _ids(folder: Path, size: int) -> list[str | None]:
    ids: list[str | None] = [None] * size
    named = json.loads((folder / "ids.json").read_text(encoding="utf-8"))
    for row, identity in zip(np.load(folder / "rows.npy").tolist(), named, strict=True):
        ids[row] = identity or None
    return ids


def _array(path: Path) -> np.ndarray | None:
    """The undamaged array in ``path``; None if there is none."""
    if not path.is_file():
        return None
    check_path(path)
    return np.load(path, allow_pickle=False)
