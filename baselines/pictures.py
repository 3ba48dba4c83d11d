"""Rows that show the same picture, to be chosen together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from coincide.data.columns import shown, sources
from coincide.schema import Example


def first_of_picture(examples: Sequence[Example], rows: np.ndarray, *, unique: bool) -> np.ndarray:
    """For each of ``rows`` (int64 [n], ascending) the first one with the same pictures and source.

    int64 [n]; with ``unique=False`` each row itself.
    """
    if not unique:
        return rows.copy()
    shows, codes = shown(examples), sources(examples).codes
    first: dict[tuple[int, bytes], int] = {}
    keys = ((row, shows.codes[shows.starts[row] : shows.starts[row + 1]]) for row in rows.tolist())
    found = [first.setdefault((int(codes[row]), names.tobytes()), row) for row, names in keys]
    return np.array(found, dtype=np.int64)


def sources_of(examples: Sequence[Example], rows: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The sorted names of the sources of ``rows``, and the index of each row's source, int64
    [n].
    """
    labels = sources(examples)
    codes = labels.codes[rows]
    names = sorted(labels.names[code] for code in np.unique(codes))
    number = {name: i for i, name in enumerate(names)}
    index = np.array([number.get(name, -1) for name in labels.names], np.int64)
    return names, index[codes]
