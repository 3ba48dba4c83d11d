"""A table of scores that any judge gave to rows of a dataset: csv or parquet.

It has a column ``row`` (index in the data) or ``id`` (of rows whose id is theirs alone), and a
column of numbers for each thing that was judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from coincide.schema import Example, UserError

if TYPE_CHECKING:
    import pandas as pd

WANTED = "expected a table with `row` or `id`, and a column of numbers for each score"


def read_table(path: Path, examples: Sequence[Example]) -> tuple[pd.DataFrame, np.ndarray]:
    """The table, and the row of the data that each line of it is about, int64, distinct.

    Raises UserError for a file that cannot be read, or names other rows than ``examples`` has.
    """
    table = _read(path)
    return table, _rows(path, table, examples)


def read_columns(path: Path, examples: Sequence[Example]) -> np.ndarray:
    """The columns of scores of the table ``path``, float64 [N, C]; NaN for rows that it does not
    have. Raises UserError for a table that does not fit the rows.
    """
    table, rows = read_table(path, examples)
    names = [name for name in table.columns if name not in ("row", "id", "style")]
    return numbers_of(path, table, rows, names, len(examples))


def numbers_of(
    path: Path, table: pd.DataFrame, rows: np.ndarray, names: Sequence[str], size: int
) -> np.ndarray:
    """Columns ``names`` of the ``table`` as float64 [size, C] by row of the data; NaN for rows that
    it does not have. Raises UserError, naming column or rows, for what is no finite number.
    """
    values = np.full((size, len(names)), np.nan)
    for number, name in enumerate(names):
        try:
            values[rows, number] = table[name].to_numpy(np.float64)
        except (TypeError, ValueError) as error:
            raise UserError(f"{path}: column {name}: {error}; {WANTED}.") from error
    odd = rows[~np.isfinite(values[rows]).all(axis=1)]
    if len(odd):
        raise UserError(f"{path}: rows {odd[:10].tolist()} have a score that is missing.")
    return values


def _read(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        with path.open("rb") as handle:
            parquet = handle.read(4) == b"PAR1"
        return pd.read_parquet(path) if parquet else pd.read_csv(path, dtype={"id": str})
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}; {WANTED}, csv or parquet.") from error


def _rows(path: Path, table: pd.DataFrame, examples: Sequence[Example]) -> np.ndarray:
    """The row of the data that each line of the table is about, int64."""
    if "row" in table.columns:
        found = table["row"].to_numpy()
        whole = np.issubdtype(found.dtype, np.integer)
        if not whole or (found < 0).any() or (found >= len(examples)).any():
            raise UserError(
                f"{path}: column row: expected whole numbers, 0 to {len(examples) - 1}."
            )
    elif "id" in table.columns:
        places: dict[str, list[int]] = {}
        for place, example in enumerate(examples):
            places.setdefault(example.id, []).append(place)
        ids = table["id"].astype(str).tolist()
        wrong = [each for each in ids if len(places.get(each, ())) != 1]
        if wrong:
            raise UserError(
                f"{path}: {len(wrong):,} ids are of no row, or of several: {wrong[:10]}. "
                "Give a column `row`, the index in the data, instead."
            )
        found = np.array([places[each][0] for each in ids], np.int64)
    else:
        raise UserError(f"{path} has the columns {', '.join(table.columns)}; {WANTED}.")
    if len(np.unique(found)) != len(found):
        raise UserError(f"{path} names some rows twice; expected one line for each.")
    rows: np.ndarray = found.astype(np.int64)
    return rows
