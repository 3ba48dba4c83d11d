"""Rows with a reason, e.g. why they are left out: a mapping that stays small if they are many."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np


class Reasons(Mapping[int, str]):
    """Row -> reason, in two bytes for each row of the dataset. Iterates by row."""

    def __init__(self, codes: np.ndarray, kinds: tuple[str, ...]) -> None:
        """``codes`` int16 [N]: 0, or the number of the reason in ``kinds``, counted from 1."""
        self.codes = codes
        self.kinds = kinds

    @classmethod
    def of(cls, size: int, found: Iterable[tuple[int | np.ndarray, str]]) -> Reasons:
        """Those ``found`` for a dataset of ``size`` rows, ``(row, reason)`` or ``(rows, reason)``;
        of several for one row the last.
        """
        codes = np.zeros(size, np.int16)
        numbers: dict[str, int] = {}
        for rows, reason in found:
            codes[rows] = numbers.setdefault(reason, len(numbers) + 1)
        return cls(codes, tuple(numbers))

    def __getitem__(self, row: int) -> str:
        if row not in self:
            raise KeyError(row)
        return self.kinds[self.codes[row] - 1]

    def __contains__(self, row: object) -> bool:
        if not isinstance(row, int | np.integer) or not 0 <= row < len(self.codes):
            return False
        return bool(self.codes[row])

    def __iter__(self) -> Iterator[int]:
        return iter(self.rows.tolist())

    def __len__(self) -> int:
        return int(np.count_nonzero(self.codes))

    def __repr__(self) -> str:
        return f"Reasons({dict(self)})"

    @property
    def rows(self) -> np.ndarray:
        """int64, ascending."""
        return np.flatnonzero(self.codes)

    def groups(self) -> Iterator[tuple[np.ndarray, str]]:
        """Rows, int64 ascending, by reason."""
        for number, reason in enumerate(self.kinds, 1):
            yield np.flatnonzero(self.codes == number), reason


def rows_of(reasons: Mapping[int, str]) -> np.ndarray:
    """The rows of any mapping from rows, int64."""
    if isinstance(reasons, Reasons):
        return reasons.rows
    return np.fromiter(reasons, np.int64, len(reasons))


def merged(size: int, *reasons: Mapping[int, str]) -> Reasons:
    """All of ``reasons`` for a dataset of ``size`` rows; of several for one row the last."""
    return Reasons.of(size, (pair for each in reasons for pair in _pairs(each)))


def count_by_reason(reasons: Mapping[int, str]) -> dict[str, int]:
    """Reason -> number of rows, by name."""
    counts: dict[str, int] = {}
    for rows, reason in _pairs(reasons):
        counts[reason] = counts.get(reason, 0) + np.size(rows)
    return {reason: count for reason, count in sorted(counts.items()) if count}


def _pairs(reasons: Mapping[int, str]) -> Iterable[tuple[int | np.ndarray, str]]:
    return reasons.groups() if isinstance(reasons, Reasons) else reasons.items()
