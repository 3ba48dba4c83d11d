"""The documents that the demo's tasks read (``eval/tasks/demo``), looked at as a parquet file."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from coincide.data.images import to_rgb, whole_files_only
from coincide.schema import UserError
from eval import parquet
from eval.documents import IDS, place

TEXTS = ("question", "answer")
"""Columns that every document has a text in."""
PICTURE = "image"
"""One with a picture, ``{bytes, path}``, or none for a question without one."""


def check(path: Path, benchmark: str) -> None:
    """Raises UserError, naming the document, where a column is missing, empty or of another type,
    or where the first picture does not decode.
    """
    import pyarrow.parquet as pq

    if why := parquet.footer_fault(path):
        raise UserError(f"benchmark {benchmark}: {path} {why}.")
    kinds = pq.read_schema(path)
    if absent := [name for name in (*TEXTS, PICTURE) if name not in kinds.names]:
        raise UserError(
            f"benchmark {benchmark}: {path} has no column {', '.join(absent)}; it has "
            f"{', '.join(kinds.names)}. Expected question, answer and image."
        )
    ids = [name for name in IDS if name in kinds.names]
    for row, document in enumerate(pq.read_table(path, columns=[*TEXTS, *ids]).to_pylist()):
        for name in TEXTS:
            if not isinstance(document[name], str):
                raise UserError(
                    f"{place(benchmark, row, document)}: {name} is {document[name]!r}; expected a "
                    f"text. Correct or remove this document in {path}."
                )
    _first_picture(path, benchmark)


def _first_picture(path: Path, benchmark: str) -> None:
    import pyarrow.parquet as pq

    pictures = pq.read_table(path, columns=[PICTURE]).column(PICTURE)
    row = next((i for i, value in enumerate(pictures) if value.is_valid), None)
    if row is None:
        return
    value = pictures[row].as_py()
    try:
        with whole_files_only(), Image.open(io.BytesIO(value["bytes"])) as picture:
            to_rgb(picture)
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, KeyError) as error:
        raise UserError(
            f"{place(benchmark, row)}: the picture in {PICTURE} does not decode ({error}). Correct "
            f"or remove this document in {path}."
        ) from error
