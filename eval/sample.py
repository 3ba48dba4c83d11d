"""Which documents of a benchmark are asked: those that match, and of them a fixed subsample."""

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
"""Documents that are scored together and so drawn together, by the benchmark's ``parts``: the two
questions about one picture of MME, the rotations of one question of MMBench."""
COLUMNS = {"pairs": ("category", "question_id"), "circular": ("index",)}


@dataclass(frozen=True)
class Subsample:
    """About ``count`` documents, the same for ever: they depend on their own ids and the seed."""

    count: int
    seed: int = 0
    by: str | None = None
    """A column over whose values the subsample is balanced, e.g. POPE's ``category``."""

    def __post_init__(self) -> None:
        if type(self.count) is not int or self.count < 1:
            raise UserError(f"subsample: count={self.count!r}; expected an int >= 1.")


def columns(where: Mapping[str, Any], subsample: Subsample | None, parts: str) -> list[str]:
    """The columns that :func:`chosen` reads, each once."""
    wanted = [*where]
    if subsample:
        wanted += [*COLUMNS.get(parts, ()), *([subsample.by] if subsample.by else [])]
    return list(dict.fromkeys(wanted))


def chosen(
    rows: Sequence[Mapping[str, Any]],
    where: Mapping[str, Any],
    subsample: Subsample | None,
    parts: str,
) -> list[int]:
    """Indices of the documents to ask, ascending.

    Units are ordered by a hash of seed and name, and taken in turn from each value of ``by`` until
    there are ``count`` documents; the last unit is taken whole.
    """
    kept = [i for i, row in enumerate(rows) if all(row[k] == v for k, v in where.items())]
    if subsample is None or len(kept) <= subsample.count:
        return kept
    name = UNITS.get(parts, lambda row, i: str(i))
    units: dict[str, list[int]] = {}
    for i in kept:
        units.setdefault(name(rows[i], i), []).append(i)
    queues: dict[Any, list[str]] = {}
    for unit in sorted(units, key=lambda unit: _rank(subsample.seed, unit)):
        value = rows[units[unit][0]][subsample.by] if subsample.by else None
        queues.setdefault(value, []).append(unit)
    taken: list[int] = []
    for unit in _in_turn([queues[value] for value in sorted(queues, key=str)]):
        if len(taken) >= subsample.count:
            break
        taken += units[unit]
    return sorted(taken)


def _rank(seed: int, unit: str) -> str:
    return hashlib.sha256(f"{seed}\0{unit}".encode()).hexdigest()


def _in_turn(queues: Sequence[Sequence[str]]) -> list[str]:
    """The first of each queue, the second of each, ..."""
    longest = max(map(len, queues), default=0)
    return [queue[i] for i in range(longest) for queue in queues if i < len(queue)]
