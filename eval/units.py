"""Units of resampling: which documents of a benchmark are drawn together for an interval.

Answers about one picture are not independent: POPE asks 18 questions about each of 500 pictures,
and asks the 1,500 positive ones in all three categories word for word. The unit is the picture; for
a document without one, its prompt. ``parts`` may define a larger unit that is scored as a whole:
MME's two questions about a picture, MMBench's rotations of a question.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.request import BenchmarkJob

KEY = "_unit"
"""Where :func:`attach` stores the unit in a logged sample."""
BY_PARTS = {"pairs": "picture with its two questions", "circular": "question with its rotations"}
"""Kinds of ``eval.sample.UNITS`` in the words of a report."""


def attach(filtered: Mapping[str, Sequence[Any]], task: Any, job: BenchmarkJob) -> None:
    """Store the name of its unit in every logged sample of lmms-eval's ``task``, under ``KEY``.

    By the column ``job.unit`` if the documents have it, else by the content of their pictures;
    documents that share any of several pictures are one unit.
    """
    split = task.config.test_split or task.config.validation_split
    pictures = picture_keys(task.dataset[split], job.unit)
    for samples in filtered.values():
        keys = [pictures[s["doc_id"]] or [_prompt(s)] for s in samples]
        for sample, unit in zip(samples, unit_names(keys), strict=True):
            sample[KEY] = unit


def record_field(sample: Mapping[str, Any]) -> dict[str, str]:
    """The field ``unit`` for the sample's record; empty if none was attached."""
    return {"unit": sample[KEY]} if KEY in sample else {}


def summary(rows: Sequence[Mapping[str, Any]], job: BenchmarkJob) -> dict[str, Any]:
    """For ``result.json``: ``unit``, its kind in words, and ``units``, how many of them have a
    score.
    """
    scored = {row["unit"] for row in rows if row["score"] is not None and "unit" in row}
    of_prompts = all(unit.startswith("prompt ") for unit in scored)
    kind = BY_PARTS.get(job.parts) or ("question" if of_prompts else "picture")
    return {"unit": kind, "units": len(scored)}


def picture_keys(documents: Any, column: str | None) -> list[list[str]]:
    """Per document of a ``datasets.Dataset``, keys that identify its pictures; [] without any.

    ``column``: one whose values name the picture. None, or not in the data: SHA-256 of the bytes of
    each picture, which are read but not decoded.
    """
    if column is not None and column in documents.column_names:
        named = documents.select_columns([column]).to_list()
        return [[] if row[column] is None else [str(row[column])] for row in named]
    raw = {name: kind for name, kind in documents.features.items() if _undecoded(kind) != kind}
    if not raw:
        return [[] for _ in range(len(documents))]
    shown = documents.select_columns(list(raw))
    for name, kind in raw.items():
        shown = shown.cast_column(name, _undecoded(kind))
    return [[_digest(picture) for picture in _flat(row.values())] for row in shown]


def unit_names(keys: Sequence[Sequence[str]]) -> list[str]:
    """Per document the name of its unit: the lowest of the keys of the unit's documents.

    Documents with a key in common, directly or through others, are one unit.
    """
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for mine in keys:
        for other in mine[1:]:
            low, high = sorted((root(mine[0]), root(other)))
            parent[high] = low
    return [root(mine[0]) for mine in keys]


def _undecoded(kind: Any) -> Any:
    """A feature whose pictures are read as bytes; other features unchanged."""
    from datasets import Image, LargeList, List

    if isinstance(kind, Image):
        return Image(decode=False)
    if isinstance(kind, List | LargeList) and _undecoded(kind.feature) != kind.feature:
        return type(kind)(_undecoded(kind.feature))
    return kind


def _flat(values: Iterable[Any]) -> Iterator[Mapping[str, Any]]:
    """The pictures among ``values``, including those in lists."""
    for value in values:
        if isinstance(value, list):
            yield from _flat(value)
        elif value is not None:
            yield value


def _digest(picture: Mapping[str, Any]) -> str:
    """Hash of the picture's bytes, or of the file that holds them."""
    content = picture.get("bytes")
    if content is None:
        content = Path(picture["path"]).read_bytes()
    return hashlib.sha256(content).hexdigest()[:16]


def _prompt(sample: Mapping[str, Any]) -> str:
    text = str(sample["arguments"][0])
    return f"prompt {hashlib.sha256(text.encode()).hexdigest()[:16]}"
