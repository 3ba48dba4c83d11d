"""``data=demo``: the generated dataset as an artifact: json, pictures, and its benchmarks."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from coincide.data.demo import tasks
from coincide.data.demo.mixture import MixtureRow, image_name, llava_record, make_ids, rows
from coincide.data.demo.tasks import Maker, Question
from coincide.data.demo.world import Scene, Split, draw
from coincide.data.llava_json import read
from coincide.schema import Dataset
from coincide.store import Build, Step
from coincide.system.files import write_atomic, write_json

VERSION = 2
BENCHMARKS: Mapping[str, tuple[Maker, ...]] = {
    "attributes": (tasks.attributes, tasks.attributes, tasks.attributes, tasks.textures),
    "counting": (tasks.counting,),
    "presence": (tasks.presence,),
    "choice": (tasks.choice,),
    "reading": (tasks.reading_digits, tasks.reading_letters),
    "spatial": (tasks.locating, tasks.comparing),
    "charts": (tasks.charts,),
}
"""Benchmark -> functions that make its questions, used in turn."""


@dataclass(frozen=True)
class Demo:
    """The generated dataset: ``n`` training rows and ``items`` questions per benchmark, from
    ``seed``.
    """

    n: int = 4000
    items: int = 200
    seed: int = 0
    clusters: int = 80
    """K for methods that cluster; read by ``conf/method``, not part of the data."""
    name: str = "demo"

    def step(self) -> Step:
        """The step that generates it: ``train.json``, ``images/``, ``benchmarks/<name>/``."""
        config = {"n": self.n, "items": self.items, "seed": self.seed}
        return Step("data", self.name, VERSION, config, self._build, note=f"{self.n:,} examples")

    def size(self) -> int:
        """``n``."""
        return self.n

    def open(self, artifact: Path) -> Dataset:
        """The training examples, read like any LLaVA json."""
        return open_demo(artifact, self.name)

    def _build(self, build: Build) -> Mapping[str, Any]:
        return generate(build.dir, self.n, self.items, self.seed)


def generate(folder: Path, n: int, items: int, seed: int) -> Mapping[str, Any]:
    """Write ``n`` training rows with their pictures and the benchmarks of ``items`` questions each
    into ``folder``, drawn from ``seed``; returns facts for the manifest.

    Raises UserError for fewer than 200 rows.
    """
    found = rows(n, seed)
    ids = make_ids(found, seed)
    pictures = _write_pictures(folder / "images", found, seed)
    for number, (name, makers) in enumerate(BENCHMARKS.items()):
        rng = np.random.Generator(np.random.PCG64([seed, 4, number]))
        _write_benchmark(folder / "benchmarks" / name, makers, items, rng)
    write_json(folder / "train.json", [llava_record(row, i, ids) for i, row in enumerate(found)])
    return {
        "rows": len(found),
        "pictures": pictures,
        "sources": dict(Counter(row.source for row in found)),
    }


def _write_pictures(folder: Path, found: list[MixtureRow], seed: int) -> int:
    """Write each distinct picture once; picture i is drawn with a generator of its own."""
    scenes = {image_name(row): row for row in found if row.scene is not None}
    for name, row in scenes.items():
        path = folder / name
        if row.scene is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            rng = np.random.Generator(np.random.PCG64([seed, 3, row.picture]))
            path.write_bytes(png(row.scene, rng))
    return len(scenes)


def png(scene: Scene, rng: np.random.Generator) -> bytes:
    """The picture of ``scene`` as PNG bytes."""
    buffer = io.BytesIO()
    Image.fromarray(draw(scene, rng)).save(buffer, "PNG")
    return buffer.getvalue()


def ask(
    makers: tuple[Maker, ...], items: int, rng: np.random.Generator, split: Split
) -> list[tuple[bytes, Question]]:
    """``items`` questions with their pictures (PNG), with the handwriting of ``split``.

    For each scene the kind of question that is rarest so far is asked, which balances the kinds.
    """
    picked: list[tuple[bytes, Question]] = []
    seen: Counter[str] = Counter()
    while len(picked) < items:
        scene, questions = makers[len(picked) % len(makers)](rng, split)
        rarest = min(questions, key=lambda question: seen[question.category])
        seen[rarest.category] += 1
        picked.append((png(scene, rng), rarest))
    return picked


def _write_benchmark(
    folder: Path, makers: tuple[Maker, ...], items: int, rng: np.random.Generator
) -> None:
    """Write ``test.parquet``: question_id, image (bytes, path), question, answer, category."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    picked = ask(makers, items, rng, "test")
    table = pa.table(
        {
            "question_id": pa.array(range(items), pa.int64()),
            "image": [{"bytes": data, "path": f"{i}.png"} for i, (data, _) in enumerate(picked)],
            "question": [question.text for _, question in picked],
            "answer": [question.answer for _, question in picked],
            "category": [question.category for _, question in picked],
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "test.parquet", lambda path: pq.write_table(table, path))


def open_demo(artifact: Path, name: str) -> Dataset:
    """The rows of an artifact's ``train.json``, which name the benchmark they are about."""
    return read(
        artifact / "train.json",
        artifact / "images",
        name=name,
        source_of=lambda record: record["source"],
    )
