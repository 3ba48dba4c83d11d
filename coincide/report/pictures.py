"""Small pictures for the page as data URIs, up to a number of bytes."""

from __future__ import annotations

import base64
import io
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
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


MOST = 1_000
"""Pictures in a part of the page."""


@dataclass
class Budget:
    """Bytes and number of pictures that may still be added to the page."""

    left: int
    pictures: int = MOST

    def uri(self, picture: Image.Image | None, side: int) -> str:
        """The picture, at most ``side`` pixels wide and high, as a data URI.

        Empty if no bytes or pictures are left.
        """
        if picture is None or not self:
            return ""
        text = thumbnail(picture, side)
        self.left -= len(text)
        self.pictures -= 1
        return text

    def __bool__(self) -> bool:
        """Whether another picture may be added."""
        return self.left > 0 and self.pictures > 0


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
) -> tuple[dict[int, list[Image.Image]], str]:
    """Document -> its pictures, in their order, for ``documents`` that have any; and why there are
    none.

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
    found: dict[int, list[Image.Image]] = {}
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


def _from_parquet(
    path: Path, documents: Mapping[int, Mapping[str, Any]]
) -> dict[int, list[Image.Image]]:
    """The pictures for the documents' question ids; only rows with one of them are read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError):
        return {}
    names = file.schema_arrow.names
    shown = _columns(names)
    if not shown or "question_id" not in names:
        return {}
    numbers: dict[str, list[int]] = defaultdict(list)
    for number, document in documents.items():
        numbers[str(document.get("question_id"))].append(number)
    found: dict[int, list[Image.Image]] = {}
    for group in range(file.num_row_groups):
        ids = file.read_row_group(group, ["question_id"]).column(0).to_pylist()
        places = [i for i, one in enumerate(ids) if one is not None and str(one) in numbers]
        if not places:
            continue
        columns = [*shown, *(["question"] if "question" in names else [])]
        records = file.read_row_group(group, columns).take(places).to_pylist()
        for place, record in zip(places, records, strict=True):
            for number in numbers[str(ids[place])]:
                if number not in found and _same(record, documents[number]):
                    stored = [record[name] for name in _named(shown, documents[number])]
                    if pictures := decode_stored(stored):
                        found[number] = pictures
    return found


def _columns(names: Sequence[str]) -> list[str]:
    """The columns that hold pictures: one, or ``image_1``, ``image_2``, ..."""
    one = next((name for name in ("image", "images") if name in names), None)
    numbered = [name for name in names if re.fullmatch(r"image_\d+", name)]
    return [one] if one else sorted(numbered, key=lambda name: int(name.rpartition("_")[2]))


def _named(columns: Sequence[str], sample: Mapping[str, Any]) -> Sequence[str]:
    """Of numbered columns those that the question names, as in ``<image 2>``; all if it names
    none.
    """
    numbers = set(re.findall(r"<image (\d+)>", str(sample.get("question", ""))))
    return [name for name in columns if name.rpartition("_")[2] in numbers] or columns


def _same(record: Mapping[str, Any], sample: Mapping[str, Any]) -> bool:
    """Whether the file's question is part of what was asked, since some datasets repeat ids."""
    question = record.get("question")
    asked = "".join(str(sample.get("question", "")).split())
    return not isinstance(question, str) or "".join(question.split()) in asked


def decode_stored(value: Any) -> list[Image.Image]:
    """The pictures of what parquet files store: bytes, ``{"bytes": ...}``, or a list of these.

    None at all where one of them cannot be read.
    """
    if isinstance(value, list):
        found = [decode_stored(each) for each in value if each is not None]
        return [picture for each in found for picture in each] if all(found) else []
    picture = _decoded(value)
    return [] if picture is None else [picture]


def _decoded(value: Any) -> Image.Image | None:
    from PIL import Image

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
