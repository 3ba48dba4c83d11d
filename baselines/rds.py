"""RDS+: the rows that look most like the target rows in the model's own representation.

1. e_i = sum_j j h_j / sum_j j over the last hidden states of the whole conversation, unit length;
   the target rows, ``targets=...``, go through the same map and are the queries.
2. Each query sorts all rows by cosine, ties by row index. Queries take turns in their order, each
   offers its best row of that turn, until k are chosen. Of several tasks (the ``source`` of the
   target rows) it is the tasks that take turns, a row's score in a task being the largest over the
   task's queries.

From: "RDS+" (arXiv 2503.01807), by a specification of its released code: in turn r a query offers
its r-th best row, and a row already taken costs it that turn (``turns: lost``). ``turns: next``
moves on to the next row that is free, so that no turn is lost. The released code sums in bfloat16
and keeps all scores in Python dictionaries; here cosines are float32 of products in float64, and
what is held is the best R rows of each query, R doubled until k rows are found.

For images the authors say nothing: ``tokens: all`` counts image tokens, which come early and weigh
little, but are many; ``text`` leaves them out. Queries should be a development or training split of
the benchmarks (``targets=benchmark``), never the test; the method stands apart in every table, for
the others see none.

Rows: text-only examples are scored like all others (``keep``), as published; rows without an answer
are never selected. Target rows that hold no value are left out and counted.

Cost: the reference pass, which other hidden states share; queries times rows times width.

Published: its authors find it ahead of gradient methods at scale, on text. MAGIC lists RDS at Rel.
93.2 for 20 % of LLaVA-665K, without saying which form or which queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from baselines.ranking import TEXT_ONLY, TextOnly, check_choice, shares
from coincide.features.signals.hidden_weighted import TOKENS, HiddenWeighted
from coincide.ops.clusters import LazyRows
from coincide.ops.products import as_float64, products
from coincide.schema import Need, Pool, Selection, Targets, UserError

Turns = Literal["lost", "next"]
BLOCK = 8192
"""Rows whose cosines are in memory at once."""
FIRST = 16
"""Rows of a query that are looked at first, at least."""


def best_rows(x: Any, queries: np.ndarray, tasks: np.ndarray, depth: int) -> np.ndarray:
    """The ``depth`` rows of ``x`` [n, D] nearest to each task, best first: int64 [T, depth].

    ``queries`` float64 [Q, D] of unit length, ``tasks`` int [Q] names the task 0..T-1 of each: a
    row counts by its largest cosine to the task's queries. Ties go to the lowest row.
    """
    count = int(tasks.max()) + 1
    score: np.ndarray = np.empty((count, 0), np.float32)
    rows: np.ndarray = np.empty((count, 0), np.int64)
    for start in range(0, len(x), BLOCK):
        here = task_cosines(x[start : start + BLOCK], queries, tasks)
        score = np.concatenate([score, here], axis=1)
        new = np.broadcast_to(np.arange(start, start + here.shape[1]), here.shape)
        rows = np.concatenate([rows, new], axis=1)
        order = np.argsort(-score, axis=1, kind="stable")[:, :depth]
        score, rows = (np.take_along_axis(a, order, axis=1) for a in (score, rows))
    return rows


def task_cosines(x: np.ndarray, queries: np.ndarray, tasks: np.ndarray) -> np.ndarray:
    """float32 [T, n]: the largest cosine of each row of ``x`` to a query of each task."""
    cosine = products(queries, unit(x)).astype(np.float32)
    order = np.argsort(tasks, kind="stable")
    starts = np.searchsorted(tasks[order], np.arange(int(tasks.max()) + 1))
    return np.maximum.reduceat(cosine[order], starts, axis=0)


def take_turns(best: np.ndarray, k: int, turns: Turns) -> np.ndarray | None:
    """The first ``k`` distinct rows, int64, when the lines of ``best`` [T, R] take turns.

    None where the lists are too short for that.
    """
    if turns == "lost":
        offered = best.T.reshape(-1)
        _, first = np.unique(offered, return_index=True)
        return offered[np.sort(first)[:k]] if len(first) >= k else None
    taken: set[int] = set()
    order: list[int] = []
    places = [0] * len(best)
    lists = best.tolist()
    while len(order) < k:
        for line, rows in enumerate(lists):
            while places[line] < len(rows) and rows[places[line]] in taken:
                places[line] += 1
            if places[line] == len(rows):
                return None
            taken.add(rows[places[line]])
            order.append(rows[places[line]])
            if len(order) == k:
                break
    return np.array(order, dtype=np.int64)


def unit(x: np.ndarray) -> np.ndarray:
    """The rows of ``x`` as float64 of unit length; rows of zeros stay."""
    rows = as_float64(np.asarray(x))
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norm, out=np.zeros_like(rows), where=norm > 0)


@dataclass(frozen=True)
class Rds:
    """Rows nearest to the target rows, queries or tasks taking turns."""

    turns: Turns = "lost"
    by: Literal["tasks", "queries"] = "tasks"
    tokens: Literal["all", "text"] = "all"
    text_only: TextOnly = "keep"
    name: str = "rds"
    fixed_size: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_choice(self.name, "turns", self.turns, ("lost", "next"))
        check_choice(self.name, "by", self.by, ("tasks", "queries"))
        check_choice(self.name, "tokens", self.tokens, TOKENS)
        check_choice(self.name, "text_only", self.text_only, TEXT_ONLY)

    @property
    def uses_seed(self) -> bool:
        """Only the quota of text-only rows is drawn."""
        return self.text_only == "quota"

    def needs(self) -> Sequence[Need]:
        """The weighted mean of the last states, of the pool's rows and of the target rows."""
        return self._signal(), Targets(self._signal())

    def select(self, pool: Pool, k: int, seed: int) -> Selection:
        """The ``k`` rows that come first in turn, and the text-only share.

        Raises UserError if no target row is usable.
        """
        found = pool.targets(Targets(self._signal()))
        asked = np.flatnonzero(found.usable)
        if not len(asked):
            raise UserError(
                f"method {self.name}: none of the {len(found.examples):,} target rows is usable. "
                "Look at what the data's policies dropped of targets=..., or give others."
            )
        queries = unit(found.values[asked])
        names = [found.examples[i].source for i in asked.tolist()]
        tasks = self._tasks(names)
        share = shares(pool, np.ones(len(pool.examples), bool), k, self.text_only, seed)
        rows = np.flatnonzero(share.candidates)
        x = LazyRows(pool.signal(self._signal()), rows)
        wanted = min(share.k, len(rows))
        chosen, depth = self._in_turn(x, queries, tasks, wanted)
        return Selection(
            rows=np.concatenate([rows[chosen], share.text]),
            scores=self._scores(x, rows, queries, len(pool.examples)),
            facts={
                "targets": len(asked),
                "targets_unusable": len(found.examples) - len(asked),
                "targets_by_source": {name: names.count(name) for name in sorted(set(names))},
                "taking_turns": int(tasks.max()) + 1,
                "turns": depth,
                "text_only": self.text_only,
                **share.facts(),
            },
        )

    def _tasks(self, names: Sequence[str]) -> np.ndarray:
        """Who takes turns, int [Q]: tasks in the order in which they first come; of a single one,
        or by choice, the queries."""
        if self.by == "queries" or len(set(names)) == 1:
            return np.arange(len(names))
        order = {name: i for i, name in enumerate(dict.fromkeys(names))}
        return np.array([order[name] for name in names])

    def _in_turn(
        self, x: Any, queries: np.ndarray, tasks: np.ndarray, wanted: int
    ) -> tuple[np.ndarray, int]:
        """Places of the first ``wanted`` rows in turn, and how deep the lists had to be."""
        depth = min(len(x), max(FIRST, 2 * -(-wanted // (int(tasks.max()) + 1))))
        while wanted:
            found = take_turns(best_rows(x, queries, tasks, depth), wanted, self.turns)
            if found is not None:
                return found, depth
            depth = min(len(x), 2 * depth)
        return np.empty(0, np.int64), 0

    def _scores(self, x: Any, rows: np.ndarray, queries: np.ndarray, size: int) -> np.ndarray:
        """The largest cosine of each candidate to a query, float32 [N]; else NaN."""
        one = np.zeros(len(queries), int)
        found = np.full(size, np.nan, np.float32)
        for start in range(0, len(x), BLOCK):
            here = rows[start : start + BLOCK]
            found[here] = task_cosines(x[start : start + BLOCK], queries, one)[0]
        return found

    def _signal(self) -> HiddenWeighted:
        return HiddenWeighted(self.tokens)
