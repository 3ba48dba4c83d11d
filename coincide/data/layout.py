"""Which columns of a Parquet shard hold pictures, and its rows without the pictures' bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coincide.data.forms import from_json
from coincide.data.inline import is_base64
from coincide.data.pictures import PATHS
from coincide.schema import UserError

PICTURES = ("images", "image")
"""Fields under which readers look for a row's pictures."""
BATCH = 256
"""Rows that are Python objects at a time."""
STEP = 16
"""Rows whose pictures are in memory at a time."""


@dataclass(frozen=True)
class Layout:
    """The columns of a shard: those with pictures in their order, the others, and other names."""

    pictures: tuple[str, ...]
    others: tuple[str, ...]
    renamed: Mapping[str, str]
    """Column -> the field that it is read as, where that is another."""


def layout_of(path: Path, schema: Any, columns: Mapping[str, Any]) -> Layout:
    """The layout of the shard at ``path`` with an Arrow ``schema``.

    ``columns``: field -> the column, or for ``images`` the columns, read as it. Without it,
    pictures are in ``images`` or ``image``, else in the one column that holds bytes. Raises
    UserError for columns that do not exist, for several of pictures of which none is named, and for
    a shard without another column.
    """
    types = dict(zip(schema.names, schema.types, strict=True))
    named = {field: [v] if isinstance(v, str) else list(v) for field, v in columns.items()}
    lost = [name for found in named.values() for name in found if name not in types]
    if lost:
        raise UserError(
            f"{path}: no column {', '.join(map(repr, lost))}, which data.columns names; it has "
            f"{', '.join(map(repr, types))}."
        )
    asked = named.pop("images", None) or named.pop("image", None)
    pictures = asked or _found(path, types)
    renamed = {name: field for field, found in named.items() for name in found}
    held = {n for n, t in types.items() if holds_bytes(t)} if asked else set()
    others = [name for name in types if name not in pictures and name not in held]
    if not others:
        raise UserError(f"{path}: no column but pictures: expected a conversation beside them.")
    return Layout(tuple(pictures), tuple(others), renamed)


def _found(path: Path, types: Mapping[str, Any]) -> list[str]:
    import pyarrow as pa

    usual = [n for n in PICTURES if n in types and not pa.types.is_null(types[n])]
    if usual:
        return usual[:1]
    held = [name for name, type_ in types.items() if holds_bytes(type_)]
    if len(held) > 1:
        raise UserError(
            f"{path}: the columns {', '.join(map(repr, held))} hold bytes, and none is called "
            f"images or image. Name those with the pictures, in their order: "
            f"'data.columns={{images:[{','.join(held)}]}}'."
        )
    return held


def holds_bytes(type_: Any) -> bool:
    """Whether a column of this Arrow type holds bytes: alone, in lists, in a struct's ``bytes``."""
    from pyarrow import types

    if isinstance(type_, _extension()):
        return holds_bytes(type_.storage_type)
    if types.is_struct(type_):
        at = type_.get_field_index("bytes")
        return at >= 0 and holds_bytes(type_.field(at).type)
    if types.is_dictionary(type_) or _is_list(type_):
        return holds_bytes(type_.value_type)
    return bool(types.is_binary(type_) or types.is_large_binary(type_))


def _extension() -> Any:
    import pyarrow as pa

    return pa.BaseExtensionType


def _is_list(type_: Any) -> bool:
    from pyarrow import types

    return bool(
        types.is_list(type_) or types.is_large_list(type_) or types.is_fixed_size_list(type_)
    )


def pictures_in(file: Any, layout: Layout) -> Iterator[tuple[int, int, int, bytes | str]]:
    """``(row, number of the column, index, picture)`` by row, then column, of an open shard.

    A picture is its bytes (for base64, the text's), or the path of a file. Null ones are left out.
    """
    begin = 0
    columns = list(layout.pictures)
    if not columns:
        return
    for batch in file.iter_batches(batch_size=STEP, columns=columns, use_threads=False):
        values = [batch.column(name).to_pylist() for name in columns]
        for row in range(batch.num_rows):
            for number, column in enumerate(values):
                value = from_json(column[row])
                for index, item in enumerate(value if isinstance(value, list) else [value]):
                    found = _content(item)
                    if found is not None:
                        yield begin + row, number, index, found
        begin += batch.num_rows


def _content(item: Any) -> bytes | str | None:
    """The bytes of a cell, or a path; None if it is empty, and an empty text for anything else."""
    if isinstance(item, dict):
        if item.get("bytes") is not None:
            return _content(item["bytes"])
        there = [item[name] for name in PATHS if item.get(name)]
        known = {"bytes", *PATHS} & item.keys()
        return _content(there[0]) if there else None if known else ""
    if isinstance(item, str):
        inside = item[:5].lower() == "data:" or is_base64(item)
        return item.encode() if inside else item or None
    return item if item is None or isinstance(item, bytes) else ""


def records_in(file: Any, layout: Layout, progress: Any) -> Iterator[dict[str, Any]]:
    """The rows of an open shard without its pictures, null fields left out."""
    others: Sequence[str] = layout.others
    wanted = set(others)
    for batch in file.iter_batches(batch_size=BATCH, columns=list(others), use_threads=False):
        for row in batch.to_pylist():
            yield {
                layout.renamed.get(name, name): value
                for name, value in row.items()
                if value is not None and name in wanted
            }
        progress.update(batch.num_rows)
