"""D2 pruning: difficulty propagated over a neighbour graph; keeps difficult and diverse rows.

1. a_i: mean margin p(y) - max p(not y) over the answer tokens (COINCIDE calls it AUM, for one
   model). A graph joins each row to its ``neighbors`` nearest in the mean last hidden state;
   d_ij is the squared distance.
2. Forward message: g_i = max(a_i, ε) + sum over neighbours j of exp(-γ_f d_ij) max(a_j, ε),
   ε = 1e-7, γ_f = 1.
3. Until k are chosen: take i = argmax g; for its neighbours j: g_j -= g_i exp(-γ_r d_ij).

From: Maharana et al. 2023; constants and direction (a high margin, an easy example, first) from
COINCIDE's released baseline (``d2_prune.py``): 5 neighbours, γ_r = 0.4.

Ours differs: the graph is exact; the released one comes from an approximate index that misses
neighbours and replaces a missing one by the last row. Hidden states are not normalised, and squared
distances in the thousands make every exp(-d) zero, so that D2 becomes ranking by margin alone;
distances are therefore divided by their median (``scale: none`` is the released form). Means are
over real tokens, not padding. ``mode: exact`` takes the argmax that the paper asks for;
``reference`` follows the released code (a cursor over the initial ranking and a standby list),
which is not always the argmax.

Rows: text-only examples are scored like all others; rows without answer tokens never selected.

Cost: the reference pass; the graph N² D (on a GPU minutes for 665K); selection k neighbors log N.

Published, LLaVA-665K 20 % on LLaVA-1.5-7B: Rel. 94.8; COMPACT at about 10 %: 97.1.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from baselines.ranking import (
    TEXT_ONLY,
    Shares,
    TextOnly,
    check_choice,
    check_positive,
    shares,
)
from coincide.features.signals.hidden_mean import HiddenMean
from coincide.features.signals.token_scores import COLUMNS, TokenScores
from coincide.ops.clusters import LazyRows
from coincide.ops.knn import knn
from coincide.schema import Need, Pool, Selection

Mode = Literal["reference", "exact"]
EPSILON = 1e-7


def graph_scores(
    scores: np.ndarray, neighbors: np.ndarray, distances: np.ndarray, gamma_forward: float = 1.0
) -> np.ndarray:
    """Scores after the forward message: g, float64 [N].

    ``scores`` [N] are a; ``neighbors`` int [N, k] and ``distances`` [N, k] (squared) are the graph.
    As in the released code, weights are computed in the precision of the distances, a row's own ε
    in that of the scores.
    """
    scores, distances = np.asarray(scores), np.asarray(distances)
    own = np.maximum(scores, scores.dtype.type(EPSILON))
    theirs = np.maximum(scores[neighbors].astype(np.float64), EPSILON)
    return own + (np.exp(-distances * gamma_forward) * theirs).sum(axis=1)


def select(
    graph_scores: np.ndarray,
    neighbors: np.ndarray,
    distances: np.ndarray,
    k: int,
    gamma_reverse: float,
    mode: Mode = "reference",
) -> np.ndarray:
    """``k`` rows, int64, in the order chosen; the reverse message is sent after each.

    ``mode``: ``reference`` is the order of the released code, but for ties in its initial ranking,
    whose order there depends on the CPU; ``exact`` always takes the largest g. Ties go to the
    lowest row in both. Raises ValueError unless 0 <= k <= N.
    """
    if not 0 <= k <= len(graph_scores):
        raise ValueError(f"got k = {k} for {len(graph_scores)} rows; expected 0 to that many")
    g = np.array(graph_scores, dtype=np.float64)
    weights = np.exp(-np.asarray(distances) * gamma_reverse)
    choose = _lazily if mode == "reference" else _exactly
    return np.array(choose(g, np.asarray(neighbors), weights, k), dtype=np.int64)


def _exactly(g: np.ndarray, neighbors: np.ndarray, weights: np.ndarray, k: int) -> list[int]:
    """The rows in exact order: always the largest g."""
    waiting = _Waiting(g, range(len(g)))
    chosen: list[int] = []
    while len(chosen) < k:
        row = waiting.pop()
        chosen.append(row)
        _send(g, neighbors[row], weights[row], row)
        waiting.changed(neighbors[row])
    return chosen


def _lazily(g: np.ndarray, neighbors: np.ndarray, weights: np.ndarray, k: int) -> list[int]:
    """The released order: a cursor over the initial ranking.

    A row below its successor is put on standby.
    """
    order = np.argsort(-g, kind="stable").tolist()
    standby = _Waiting(g, ())
    chosen: list[int] = []
    cursor = 0
    while len(chosen) < k:
        best = standby.largest()
        if cursor == len(order) or (best is not None and best >= g[order[cursor]]):
            row = standby.pop()
        else:
            row = order[cursor]
            cursor += 1
            if cursor < len(order) and g[row] < g[order[cursor]]:
                standby.add(row)
                continue
        chosen.append(row)
        _send(g, neighbors[row], weights[row], row)
        standby.changed(neighbors[row])
    return chosen


def _send(g: np.ndarray, neighbors: np.ndarray, weights: np.ndarray, row: int) -> None:
    """The reverse message of ``row``: g_j -= g_i exp(-γ_r d_ij)."""
    g[neighbors] -= g[row] * weights


class _Waiting:
    """Priority queue of rows by descending ``g``, which may change: a heap with stale entries
    skipped.

    Ties go to the row that was added first.
    """

    def __init__(self, g: np.ndarray, rows: Sequence[int]) -> None:
        self.g = g
        self.turn = {row: turn for turn, row in enumerate(rows)}
        self.heap = [(-g[row], turn, row) for row, turn in self.turn.items()]
        self.added = len(self.heap)
        heapq.heapify(self.heap)

    def add(self, row: int) -> None:
        self.turn[row] = self.added
        self.added += 1
        self.changed([row])

    def changed(self, rows: Sequence[int] | np.ndarray) -> None:
        """Update the queue after g of ``rows`` changed."""
        for row in map(int, rows):
            if row in self.turn:
                heapq.heappush(self.heap, (-self.g[row], self.turn[row], row))

    def largest(self) -> float | None:
        """The largest g in the queue; None when it is empty."""
        while self.heap:
            value, _, row = self.heap[0]
            if row in self.turn and self.g[row] == -value:
                return -value
            heapq.heappop(self.heap)
        return None

    def pop(self) -> int:
        """Remove and return the row with the largest g."""
        self.largest()
        row = heapq.heappop(self.heap)[2]
        del self.turn[row]
        return row


def neighbor_graph(
    x: Any, neighbors: int, *, scale: Literal["median", "none"]
) -> tuple[np.ndarray, np.ndarray]:
    """The exact graph of the rows of ``x`` [n, D]: neighbours int64 [n, k] and distances [n, k].

    k is ``neighbors``; distances are squared. ``scale: median`` divides them by the median of those
    above zero.
    """
    import torch

    count = min(neighbors, len(x) - 1)
    if count < 1:
        return np.empty((len(x), 0), np.int64), np.empty((len(x), 0), np.float32)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found, distances = knn(x, count, device=device)
    apart = distances[distances > 0]
    if scale == "median" and len(apart):
        distances = distances / np.median(apart)
    return found, distances


@dataclass(frozen=True)
class D2Pruning:
    """Takes the row with the highest propagated margin, and lowers its neighbours, until k are
    taken.
    """

    neighbors: int = 5
    gamma_forward: float = 1.0
    gamma_reverse: float = 0.4
    scale: Literal["median", "none"] = "median"
    mode: Mode = "exact"
    text_only: TextOnly = "keep"
    name: str = "d2_pruning"
    fixed_size: ClassVar[bool] = False

    @property
    def version(self) -> int:
        """2 where ties of the initial ranking go to the lowest row; ``exact`` has none."""
        return 2 if self.mode == "reference" else 1

    def __post_init__(self) -> None:
        check_choice(self.name, "scale", self.scale, ("median", "none"))
        check_choice(self.name, "mode", self.mode, ("exact", "reference"))
        check_choice(self.name, "text_only", self.text_only, TEXT_ONLY)
        check_positive(
            self.name,
            neighbors=self.neighbors,
            gamma_forward=self.gamma_forward,
            gamma_reverse=self.gamma_reverse,
        )

    @property
    def uses_seed(self) -> bool:
        """Whether the run's seed matters: only for the random quota of text-only rows."""
        return self.text_only == "quota"

    def needs(self) -> Sequence[Need]:
        """The margin of the answer tokens (``token_scores``) and the mean hidden state."""
        return TokenScores(), HiddenMean()

    def score_config(self, seed: int) -> dict[str, Any]:
        """What determines the graph and the forward message."""
        names = ("neighbors", "gamma_forward", "scale", "text_only")
        return {name: getattr(self, name) for name in names}

    def score(self, pool: Pool, seed: int) -> dict[str, np.ndarray]:
        """``score``: g, float32 [N]; for the n candidates also g in float64, neighbours and
        distances [n, k].
        """
        margin = self._margin(pool)
        rows = np.flatnonzero(self._shares(pool, margin, 0, seed).candidates)
        neighbors, distances = neighbor_graph(
            LazyRows(pool.signal(HiddenMean()), rows), self.neighbors, scale=self.scale
        )
        g = graph_scores(margin[rows], neighbors, distances, self.gamma_forward)
        score = np.full(len(margin), np.nan, dtype=np.float32)
        score[rows] = g
        return {"score": score, "graph": g, "neighbors": neighbors, "distances": distances}

    def select(self, pool: Pool, k: int, seed: int) -> Selection:
        """``k`` rows by the graph over all candidates, and the share of text-only rows."""
        share = self._shares(pool, self._margin(pool), k, seed)
        rows = np.flatnonzero(share.candidates)
        score, g, neighbors, distances = map(
            pool.scored(self, seed).__getitem__, ("score", "graph", "neighbors", "distances")
        )
        places = min(share.k, len(rows))
        chosen = rows[select(g, neighbors, distances, places, self.gamma_reverse, self.mode)]
        return Selection(
            rows=np.concatenate([chosen, share.text]),
            scores=score,
            facts={"mode": self.mode, "text_only": self.text_only, **share.facts()},
        )

    def _margin(self, pool: Pool) -> np.ndarray:
        return pool.signal(TokenScores())[:][:, COLUMNS.index("margin")]

    def _shares(self, pool: Pool, margin: np.ndarray, k: int, seed: int) -> Shares:
        return shares(pool, ~np.isnan(margin), k, self.text_only, seed)
