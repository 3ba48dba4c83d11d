"""Units of a feature pass: shards, or rows by picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from coincide.features.engine.units import Units, by_picture, lacking, shards_of
from coincide.schema import Example


def rows(*pictures: str) -> list[Example]:
    """Rows that show what ``pictures`` name, one letter a picture."""
    return [Example(i, str(i), tuple(names), (), "made") for i, names in enumerate(pictures)]


@pytest.mark.parametrize(
    ("pictures", "most", "expected"),
    [
        (("a", "b", "a", "b"), 2, [[0, 2], [1, 3]]),
        (("a", "b", "c", "", "a", "d"), 3, [[0, 4, 1], [2, 3, 5]]),
        (("a", "b", "c", "c", "", "ab"), 3, [[0, 1, 5], [2, 3, 4]]),  # 0 and 1 through 5
        (("b", *"aaaaa"), 2, [[0], [1, 2], [3, 4], [5]]),  # more rows than a unit takes
        (("a", "b", "c", "d"), 2, None),
        (("a", "a", "b", "b"), 2, None),  # no shard shows what another does
        (("", "", "", ""), 2, None),
        ((), 2, None),
    ],
)
def test_rows_of_one_picture_are_computed_together(
    pictures: tuple[str, ...], most: int, expected: list[list[int]] | None
) -> None:
    shards = shards_of(len(pictures), most)
    order = by_picture(rows(*pictures), shards, most)
    assert (order is None) == (expected is None)
    if order is not None:
        assert [list(unit) for unit in Units(shards, order).rows] == expected


def test_every_row_is_in_one_unit_however_pictures_are_shared() -> None:
    random = np.random.default_rng(0)
    names = [f"{n}" for n in random.zipf(1.5, 5000).tolist()]
    examples = [Example(i, "", (name,), (), "made") for i, name in enumerate(names)]
    left = [range(i, i + 100) for i in range(500, 5000, 100)]
    order = by_picture(examples, left, 100)
    assert order is not None
    units = Units(shards_of(5000, 100), order)
    assert sorted(row for unit in units.rows for row in unit) == list(range(500, 5000))
    assert max(map(len, units.rows)) == 100
    assert len(units.rows) < 1.2 * len(left)


def test_nothing_is_lacking_where_the_folder_is_gone(tmp_path: Path) -> None:
    assert lacking([tmp_path], 2) == [0, 1]
    assert lacking([tmp_path, tmp_path / "gone"], 2) == []
