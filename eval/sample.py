"""Which documents of a benchmark are asked: those that match ``where``, and a fixed subsample of
them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coincide.schema import UserError

UNITS: dict[str, Callable[[Mapping[str, Any], int], str]] = {
    "pairs": lambda row, i: f"{row['category']}/{row['question_id']}",
    "circular": lambda row, i: str(int(row["index"]) % 1_000_000),
}
"""Documents that are scored together, and so drawn together, by the benchmark's ``parts``: the two
questions about one picture of MME, the rotations of one question of MMBench."""
UnitDocuments = dict[str, list[int]]
COLUMNS = {"pairs": ("category", "question_id"), "circular": ("index",)}


@dataclass(frozen=True)
class Subsample:
    """About ``count`` documents; always the same ones, since they depend on their own ids and the
    seed.
    """

    count: int
    seed: int = 0
    by: str | None = None
    """A column over whose values the subsample is balanced, e.g. POPE's ``category``."""

    def __post_init__(self) -> None:
        if type(self.count) is not int or self.count < 1:
            raise UserError(f"subsample: count={self.count!r}; expected an int >= 1.")


def columns(
    where: Mapping[str, Any], subsample: Subsample | None, parts: str, limit: int | None = None
) -> list[str]:
    """The columns that :func:`chosen_documents` needs, each once."""
    wanted = [*where]
    if subsample or limit is not None:
        wanted += COLUMNS.get(parts, ())
    if subsample and subsample.by:
        wanted.append(subsample.by)
    return list(dict.fromkeys(wanted))


def chosen_documents(
    rows: Sequence[Mapping[str, Any]],
    where: Mapping[str, Any],
    subsample: Subsample | None,
    parts: str,
    limit: int | None = None,
) -> list[int]:
    """Indices of the documents to ask, ascending: those that match ``where``, then subsample and
    limit.

    For a subsample, units are ordered by a hash of seed and name and taken in turn from each value
    of ``by`` until there are ``count`` documents. ``limit`` takes units in the order of the file.
    The last unit is taken as a whole.
    """
    kept = [i for i, row in enumerate(rows) if all(row[k] == v for k, v in where.items())]
    if subsample is not None and len(kept) > subsample.count:
        kept = _drawn(rows, kept, subsample, parts)
    if limit is not None and len(kept) > limit:
        units = _units(rows, kept, parts)
        kept = _filled(units, list(units), limit)
    return kept


def _units(rows: Sequence[Mapping[str, Any]], kept: Sequence[int], parts: str) -> UnitDocuments:
    """Name of the unit -> its documents, in the order of the file."""
    name = UNITS.get(parts, lambda row, i: str(i))
    units: UnitDocuments = {}
    for i in kept:
        units.setdefault(name(rows[i], i), []).append(i)
    return units


def _filled(units: UnitDocuments, order: Sequence[str], count: int) -> list[int]:
    """The documents of whole units, taken in ``order`` until there are ``count``; ascending."""
    taken: list[int] = []
    for unit in order:
        if len(taken) >= count:
            break
        taken += units[unit]
    return sorted(taken)


def _drawn(
    rows: Sequence[Mapping[str, Any]], kept: Sequence[int], subsample: Subsample, parts: str
) -> list[int]:
    units = _units(rows, kept, parts)
    queues: dict[Any, list[str]] = {}
    for unit in sorted(units, key=lambda unit: _rank(subsample.seed, unit)):
        value = rows[units[unit][0]][subsample.by] if subsample.by else None
        queues.setdefault(value, []).append(unit)
    order = _in_turn([queues[value] for value in sorted(queues, key=str)])
    return _filled(units, order, subsample.count)


def _rank(seed: int, unit: str) -> str:
    return hashlib.sha256(f"{seed}\0{unit}".encode()).hexdigest()


def _in_turn(queues: Sequence[Sequence[str]]) -> list[str]:
    """The first of each queue, the second of each, ..."""
    longest = max(map(len, queues), default=0)
    return [queue[i] for i in range(longest) for queue in queues if i < len(queue)]
