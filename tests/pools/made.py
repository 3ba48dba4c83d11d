"""Miniatures of the pools as their repositories have them, with rows that a tiny model learns."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
TEXTS = pa.list_(pa.struct([(n, pa.string()) for n in ("user", "assistant", "source")]))
SAID = pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))
SHARD = "train-00000-of-00001.parquet"


def picture(number: int) -> bytes:
    """A small picture of its own; every third number has the one of the number before."""
    number -= number % 3 == 2
    out = io.BytesIO()
    noise = np.random.default_rng(number).integers(0, 255, (56, 56, 3), dtype=np.uint8)
    Image.fromarray(noise).save(out, "JPEG" if number % 2 else "PNG")
    return out.getvalue()


def table(path: Path, columns: Mapping[str, Any]) -> None:
    """One shard of two rows a row group."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(dict(columns)), path, row_group_size=2)


def question(number: int) -> tuple[str, str]:
    """What is asked and answered in row ``number``."""
    return f"what colour is number {number}?", ("red", "three squares", "yes")[number % 3]


def llava_onevision(folder: Path) -> None:
    """``image``, null in one row, and ``conversations``; two parts."""
    for part, numbers in (("ai2d(gpt4v)", range(6)), ("magpie_pro(qwen2_72b_st)", range(6, 12))):
        asked = [question(n) for n in numbers]
        images = [{"bytes": picture(n), "path": None} if n != 7 else None for n in numbers]
        marks = ["" if image is None else "<image>\n" for image in images]
        said = [
            [{"from": "human", "value": mark + q}, {"from": "gpt", "value": a}]
            for mark, (q, a) in zip(marks, asked, strict=True)
        ]
        table(folder / part / SHARD, {
            "id": [str(n) for n in numbers], "image": pa.array(images, IMAGE),
            "conversations": pa.array(said, SAID), "data_source": [part] * len(said),
        })  # fmt: skip


def _texts(folder: Path, parts: Mapping[str, range], more: Mapping[str, Any]) -> None:
    for part, numbers in parts.items():
        images = [[{"bytes": picture(n), "path": None}] * (1 + n % 2) for n in numbers]
        said = [
            [{"user": q, "assistant": a, "source": part} for q, a in (question(n), question(n + 1))]
            for n in numbers
        ]
        table(folder / part / SHARD, {
            "images": pa.array(images, pa.list_(IMAGE)), "texts": pa.array(said, TEXTS),
            **{name: [value] * len(said) for name, value in more.items()},
        })  # fmt: skip


def the_cauldron(folder: Path) -> None:
    """Lists of pictures, two questions a row."""
    _texts(folder, {"ai2d": range(6), "vqav2": range(6, 12)}, {})


def finevision(folder: Path) -> None:
    """The same with sources and ratings."""
    rated = {f"{name}_ratings": [4, 5] for name in ("relevance", "formatting")}
    parts = {"chartqa": range(6), "docvqa": range(6, 12)}
    _texts(folder, parts, {"source": "x", "relevance_min": 4, **rated})


def own(folder: Path) -> None:
    """Questions about pictures in a column of bytes, in one shard."""
    asked = [question(n) for n in range(12)]
    table(folder / "mine.parquet", {
        "jpg": [picture(n) for n in range(12)], "question": [q for q, _ in asked],
        "answer": [a for _, a in asked],
    })  # fmt: skip


def cambrian_7m(folder: Path) -> None:
    """Lines of LLaVA json, an archive, and one in eleven parts."""
    packed: dict[str, dict[str, bytes]] = {"coco": {}, "allava": {}}
    lines = []
    for number in range(12):
        where = "coco" if number < 6 else "allava"
        packed[where][f"{where}/{number}.png"] = picture(number)
        asked, said = question(number)
        turns = [{"from": "system", "value": "Answer in a word."}] if number % 2 else []
        turns += [{"from": "human", "value": f"<image>\n{asked}"}, {"from": "gpt", "value": said}]
        row = {"id": number, "image": f"{where}/{number}.png", "source": f"{where}.json"}
        lines.append(json.dumps({**row, "conversations": turns}) + "\n")
    (folder / "jsons").mkdir(parents=True)
    (folder / "jsons" / "Cambrian7M_withsystemprompt.jsonl").write_text("".join(lines))
    (folder / "coco.tar.gz").write_bytes(archive(packed["coco"]))
    whole = archive(packed["allava"])
    step = len(whole) // 11 + 1
    for part in range(11):
        piece = whole[part * step : (part + 1) * step]
        (folder / f"allava.tar.gz_part{part}").write_bytes(piece)


def archive(files: Mapping[str, bytes]) -> bytes:
    """``files`` as a tar.gz."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as packed:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
    return out.getvalue()


REPOSITORIES = {
    "llava_onevision": "lmms-lab/LLaVA-OneVision-Data",
    "the_cauldron": "HuggingFaceM4/the_cauldron",
    "finevision": "HuggingFaceM4/FineVision",
    "cambrian_7m": "nyu-visionx/Cambrian-10M",
}
"""Pool -> the repository that its YAML names."""
MAKERS: Mapping[str, Callable[[Path], None]] = {
    "llava_onevision": llava_onevision,
    "the_cauldron": the_cauldron,
    "finevision": finevision,
    "cambrian_7m": cambrian_7m,
    "parquet": own,
}
