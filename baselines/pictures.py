"""Rows that show the same picture, as one thing that is chosen or not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from coincide.schema import Example


def first_of_picture(examples: Sequence[Example], rows: np.ndarray, *, unique: bool) -> np.ndarray:
    """Of each of ``rows`` (int64 [n], ascending) the first among them that shows the same pictures
    and is of the same source, int64 [n]; ``unique=False``: itself.
    """
    if not unique:
        return rows.copy()
    first: dict[tuple[str, tuple[str, ...]], int] = {}
    keys = ((row, examples[row]) for row in rows.tolist())
    found = [first.setdefault((example.source, example.images), row) for row, example in keys]
    return np.array(found, dtype=np.int64)


def sources_of(examples: Sequence[Example], rows: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The names of the sources of ``rows``, sorted, and the number of each row's, int64 [n]."""
    found = [examples[row].source for row in rows.tolist()]
    names = sorted(set(found))
    number = {name: i for i, name in enumerate(names)}
    return names, np.array([number[name] for name in found], dtype=np.int64)
