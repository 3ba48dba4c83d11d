"""Rows that show the same picture, to be chosen together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from coincide.schema import Example


def first_of_picture(examples: Sequence[Example], rows: np.ndarray, *, unique: bool) -> np.ndarray:
    """For each of ``rows`` (int64 [n], ascending) the first one with the same pictures and source.

    int64 [n]; with ``unique=False`` each row itself.
    """
    if not unique:
        return rows.copy()
    first: dict[tuple[str, tuple[str, ...]], int] = {}
    keys = ((row, examples[row]) for row in rows.tolist())
    found = [first.setdefault((example.source, example.images), row) for row, example in keys]
    return np.array(found, dtype=np.int64)


def sources_of(examples: Sequence[Example], rows: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The sorted names of the sources of ``rows``, and the index of each row's source, int64
    [n].
    """
    found = [examples[row].source for row in rows.tolist()]
    names = sorted(set(found))
    number = {name: i for i, name in enumerate(names)}
    return names, np.array([number[name] for name in found], dtype=np.int64)
