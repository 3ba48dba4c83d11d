"""``examples.parquet``: a line for each row of a dataset, to look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from coincide.data.columns import id_strings, source_strings, strings
from coincide.data.reasons import Reasons
from coincide.data.table import Rows

GROUP = 2**20
"""Rows that are made and written at a time; Parquet's own size of a row group."""
FIELDS = pa.schema(
    {
        "row": pa.int64(),
        "id": pa.string(),
        "source": pa.string(),
        "images": pa.int64(),
        "turns": pa.int64(),
        "dropped": pa.string(),
    }
)


def write_index(path: Path, rows: Rows, dropped: Reasons) -> None:
    """Write row, id, source, number of images and turns, and why the row is left out."""
    images, turns = np.diff(rows.shown_starts()), rows.column("turns")
    with parquet.ParquetWriter(path, FIELDS) as writer:
        for begin in range(0, len(rows), GROUP):
            part = slice(begin, min(begin + GROUP, len(rows)))
            columns = [
                np.arange(part.start, part.stop),
                id_strings(rows, part),
                source_strings(rows, part),
                images[part].astype(np.int64),
                turns[part].astype(np.int64),
                strings(dropped.kinds, dropped.codes[part] - 1),
            ]
            writer.write_table(pa.table(columns, schema=FIELDS), GROUP)
