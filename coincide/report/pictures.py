"""Small pictures for the page as data URIs, up to a number of bytes."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coincide.data.images import BadImage, UnsafePath, load_image, to_rgb

if TYPE_CHECKING:
    from PIL import Image

    from coincide.ledger.evidence import ArtifactShelf
    from coincide.ledger.result import Result

MAX_PIXELS = 40_000_000
"""Larger pictures are not decoded for a thumbnail."""


@dataclass
class Budget:
    """Bytes of pictures that may still be added to the page."""

    left: int

    def uri(self, picture: Image.Image | None, side: int) -> str:
        """The picture, at most ``side`` pixels wide and high, as a data URI.

        Empty if no bytes are left.
        """
        if picture is None or self.left <= 0:
            return ""
        text = thumbnail(picture, side)
        self.left -= len(text)
        return text


def thumbnail(picture: Image.Image, side: int) -> str:
    """The picture, at most ``side`` pixels, as a data URI: PNG if it is tiny already, else JPEG."""
    small = picture.convert("RGB")
    tiny = max(small.size) <= 64
    small.thumbnail((side, side))
    out = io.BytesIO()
    small.save(out, "PNG" if tiny else "JPEG", **({} if tiny else {"quality": 72}))
    kind = "png" if tiny else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"


def training_picture(root: Path, relative: str) -> Image.Image | None:
    """A picture of the training set; None if it is missing, broken or outside ``root``."""
    try:
        return load_image(root, relative, max_pixels=MAX_PIXELS)
    except (BadImage, UnsafePath):
        return None


def benchmark_pictures(
    shelf: ArtifactShelf, run: Result, benchmark: str, documents: Mapping[int, Mapping[str, Any]]
) -> tuple[dict[int, Image.Image], str]:
    """Document -> its first picture, for ``documents``; and why there are none.

    Read from the parquet file of the data artifact that the benchmark was measured on, or from the
    mirror as linked by the store's cache. File and sample must have the same question id.
    """
    folder = shelf.evaluation(run, benchmark)
    if folder is None:
        return {}, "the evaluation is not in this store"
    config = shelf.manifest(folder).get("config", {})
    if config.get("dataset"):
        files = _mirrored(shelf, str(config["dataset"]), str(config.get("content", "")))
        absent = f"the dataset {config['dataset']} is not on this machine"
    else:
        files = _in_data(shelf, shelf.need(folder, "data"), config.get("data"))
        absent = "the data artifact is not in this store"
    if not files:
        return {}, absent
    found: dict[int, Image.Image] = {}
    for path in files:
        if len(found) < len(documents):
            found |= _from_parquet(path, documents)
    return found, "" if found else "none has the question's id, or none decodes"


def _in_data(shelf: ArtifactShelf, data: Path | None, files: Any) -> list[Path]:
    if data is None or not isinstance(files, Mapping):
        return []
    root = data.resolve()
    inside = [n for n in map(str, files.values()) if (data / n).resolve().is_relative_to(root)]
    return [path for name in inside if (path := shelf.file(data, name)) is not None]


def _mirrored(shelf: ArtifactShelf, dataset: str, content: str) -> list[Path]:
    """The dataset's parquet files, if its evaluation linked them."""
    if shelf.root is None or ".." in dataset.split("/") or not content.isalnum():
        return []
    folder = shelf.root / ".cache" / "benchmarks" / content[:16] / dataset
    return sorted(folder.rglob("*.parquet")) if folder.is_dir() else []


def _from_parquet(path: Path, documents: Mapping[int, Mapping[str, Any]]) -> dict[int, Image.Image]:
    """The pictures for the documents' question ids; only rows with one of them are read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError):
        return {}
    names = file.schema_arrow.names
    column = next((name for name in ("image", "image_1", "images") if name in names), None)
    if column is None or "question_id" not in names:
        return {}
    numbers: dict[str, list[int]] = defaultdict(list)
    for number, document in documents.items():
        numbers[str(document.get("question_id"))].append(number)
    found: dict[int, Image.Image] = {}
    for group in range(file.num_row_groups):
        ids = file.read_row_group(group, ["question_id"]).column(0).to_pylist()
        places = [i for i, one in enumerate(ids) if one is not None and str(one) in numbers]
        if not places:
            continue
        columns = [column, *(["question"] if "question" in names else [])]
        records = file.read_row_group(group, columns).take(places).to_pylist()
        for place, record in zip(places, records, strict=True):
            for number in numbers[str(ids[place])]:
                picture = (
                    decode_stored(record[column]) if _same(record, documents[number]) else None
                )
                if picture is not None:
                    found.setdefault(number, picture)
    return found


def _same(record: Mapping[str, Any], sample: Mapping[str, Any]) -> bool:
    """Whether the file's question is part of what was asked, since some datasets repeat ids."""
    question = record.get("question")
    asked = "".join(str(sample.get("question", "")).split())
    return not isinstance(question, str) or "".join(question.split()) in asked


def decode_stored(value: Any) -> Image.Image | None:
    """A picture as stored in parquet files: bytes, ``{"bytes": ...}``, or a list of these; else
    None.
    """
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
