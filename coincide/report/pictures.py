"""Small pictures for the page, as data URIs, until a number of bytes is spent."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coincide.data.images import BadImage, UnsafePath, load_image, to_rgb

if TYPE_CHECKING:
    from PIL import Image

    from coincide.report.evidence import Shelf
    from coincide.schema import Result

MAX_PIXELS = 40_000_000
"""Larger pictures are not decoded for a thumbnail."""


@dataclass
class Budget:
    """Bytes of pictures that a page may still take."""

    left: int

    def uri(self, picture: Image.Image | None, side: int) -> str:
        """The picture at most ``side`` pixels wide and high; empty when nothing is left for it."""
        if picture is None or self.left <= 0:
            return ""
        text = thumbnail(picture, side)
        self.left -= len(text)
        return text


def thumbnail(picture: Image.Image, side: int) -> str:
    """A data URI: PNG where the picture is tiny already, JPEG otherwise."""
    small = picture.convert("RGB")
    tiny = max(small.size) <= 64
    small.thumbnail((side, side))
    out = io.BytesIO()
    small.save(out, "PNG" if tiny else "JPEG", **({} if tiny else {"quality": 72}))
    kind = "png" if tiny else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"


def training_picture(root: Path, relative: str) -> Image.Image | None:
    """A picture of the training set, None where it is missing, broken or out of bounds."""
    try:
        return load_image(root, relative, max_pixels=MAX_PIXELS)
    except (BadImage, UnsafePath):
        return None


def benchmark_pictures(
    shelf: Shelf, run: Result, benchmark: str, documents: Mapping[int, Mapping[str, Any]]
) -> tuple[dict[int, Image.Image], str]:
    """Document -> its first picture, of those asked for; and why there are none.

    Read from the parquet file in the data artifact that the benchmark was measured on. A document
    is the row of its number; where both sides have a question id and it differs, no picture.
    """
    folder = shelf.evaluation(run, benchmark)
    if folder is None:
        return {}, "the evaluation is not in this store"
    config = shelf.manifest(folder).get("config", {})
    files, data = config.get("data"), shelf.need(folder, "data")
    if not files:
        return {}, f"the pictures of {config.get('dataset') or benchmark} are not in the store"
    if data is None:
        return {}, "the data artifact is not in this store"
    path = data / str(next(iter(files.values())))
    if not path.resolve().is_relative_to(data.resolve()) or not path.is_file():
        return {}, "the data artifact has no such file"
    return _from_parquet(path, documents)


def _from_parquet(
    path: Path, documents: Mapping[int, Mapping[str, Any]]
) -> tuple[dict[int, Image.Image], str]:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    names = file.schema_arrow.names
    column = next((name for name in ("image", "image_1", "images") if name in names), None)
    if column is None:
        return {}, "its data has no pictures"
    wanted = [column, *(["question_id"] if "question_id" in names else [])]
    found, start = {}, 0
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        mine = [document for document in documents if start <= document < start + rows]
        if mine:
            table = file.read_row_group(group, wanted)
            for document in mine:
                [record] = table.slice(document - start, 1).to_pylist()
                picture = decoded(record[column])
                if picture is not None and _same(record, documents[document]):
                    found[document] = picture
        start += rows
    return found, "" if found else "its pictures do not decode, or belong to other questions"


def _same(record: Mapping[str, Any], sample: Mapping[str, Any]) -> bool:
    ids = [source.get("question_id") for source in (record, sample)]
    return None in ids or str(ids[0]) == str(ids[1])


def decoded(value: Any) -> Image.Image | None:
    """A picture as parquet files hold it: bytes, ``{"bytes": ...}``, or a list of such."""
    from PIL import Image

    if isinstance(value, list):
        value = value[0] if value else None
    content = value.get("bytes") if isinstance(value, Mapping) else value
    if not isinstance(content, bytes):
        return None
    try:
        with Image.open(io.BytesIO(content)) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                return None
            return to_rgb(picture)
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError, IndexError):
        return None


def spread_over(total: int, parts: Iterable[Any]) -> Budget:
    """A budget of ``total`` bytes divided evenly over ``parts``."""
    return Budget(total // max(1, len(list(parts))))
