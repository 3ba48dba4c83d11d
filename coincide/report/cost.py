"""The cost of a run: each artifact charged in full, and divided among the runs that share it."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from coincide.ledger.result import Cost, Result

STAGES = ("reference", "features", "select", "train", "evaluate")
CHARGED = ("reference", "features", "select", "train")
"""The cost of a trained model. Evaluation is left out: it costs the same for every method."""
TOGETHER = ("features", "evaluate")
"""Stages that build several artifacts in one go, with one clock."""
_TICK = 3.0
"""Seconds: artifacts of such a stage that started closer together than this were built together."""


@dataclass(frozen=True)
class RunCost:
    """Seconds by stage, averaged over the runs of a row."""

    whole: Mapping[str, float]
    """As if each run had been the only one."""
    shared: Mapping[str, float]
    """An artifact that n runs of the ledger use counts one n-th for each. Empty for results from
    before costs were recorded, whose sharing is not known."""
    gpu_whole: Mapping[str, float]
    """GPU seconds, in full; empty if no GPU was used."""
    gpu_shared: Mapping[str, float]
    """GPU seconds, shared."""

    def total(self, *, shared: bool, gpu: bool) -> float | None:
        """Sum over ``CHARGED`` stages in seconds; None if nothing was recorded."""
        of = {
            (False, False): self.whole, (True, False): self.shared,
            (False, True): self.gpu_whole, (True, True): self.gpu_shared,
        }[shared, gpu]  # fmt: skip
        found = [of[stage] for stage in CHARGED if stage in of]
        return math.fsum(found) if found else None


@dataclass(frozen=True)
class _Build:
    """What was built with one clock, and its seconds."""

    stage: str
    identity: tuple[object, ...]
    seconds: float
    gpus: int


def charges(rows: Sequence[Sequence[Result]], all_runs: Iterable[Result]) -> list[RunCost]:
    """The cost of each row; ``all_runs`` are the runs among which shared artifacts are divided."""
    clocks = _clocks(all_runs := list(all_runs))
    users: Counter[tuple[object, ...]] = Counter()
    for run in all_runs:
        users.update({build.identity for build in _builds(run, clocks)})
    return [_of_row(runs, clocks, users) for runs in rows]


def _of_row(
    runs: Sequence[Result],
    clocks: Mapping[tuple[str, float], float],
    users: Counter[tuple[object, ...]],
) -> RunCost:
    found = _mean([_charge(_builds(run, clocks), users) for run in runs])
    known = all(run.costs for run in runs)
    return found if known else replace(found, shared={}, gpu_shared={})


def _clocks(runs: Iterable[Result]) -> dict[tuple[str, float], float]:
    """(stage, start) -> first start of what was built together."""
    starts: dict[str, set[float]] = defaultdict(set)
    for run in runs:
        for cost in run.costs:
            if cost.stage in TOGETHER:
                starts[cost.stage].add(cost.started)
    found = {}
    for stage, times in starts.items():
        first = last = -math.inf
        for time in sorted(times):
            first, last = (time if time - last > _TICK else first), time
            found[(stage, time)] = first
    return found


def _builds(run: Result, clocks: Mapping[tuple[str, float], float]) -> list[_Build]:
    if not run.costs:
        return [_Build(s, (id(run), s), seconds, 0) for s, seconds in run.seconds.items()]
    groups: dict[tuple[object, ...], list[Cost]] = defaultdict(list)
    for cost in run.costs:
        together = clocks.get((cost.stage, cost.started))
        key = cost.folder if together is None else ""
        groups[(cost.stage, key, cost.started if together is None else together)].append(cost)
    return [
        _Build(str(identity[0]), identity, max(c.seconds for c in mine), max(c.gpus for c in mine))
        for identity, mine in groups.items()
    ]


def _charge(builds: Sequence[_Build], users: Counter[tuple[object, ...]]) -> RunCost:
    tables: list[dict[str, float]] = [defaultdict(float) for _ in range(4)]
    for build in builds:
        share = build.seconds / users[build.identity]
        for table, seconds in zip(tables, (build.seconds, share), strict=False):
            table[build.stage] += seconds
        if build.gpus:
            for table, seconds in zip(tables[2:], (build.seconds, share), strict=True):
                table[build.stage] += build.gpus * seconds
    return RunCost(*map(dict, tables))


def _mean(charged: Sequence[RunCost]) -> RunCost:
    def mean(tables: Sequence[Mapping[str, float]]) -> dict[str, float]:
        names = [s for s in STAGES if any(s in table for table in tables)]
        return {s: math.fsum(t.get(s, 0.0) for t in tables) / len(tables) for s in names}

    parts = ("whole", "shared", "gpu_whole", "gpu_shared")
    return RunCost(*(mean([getattr(c, part) for c in charged]) for part in parts))


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, value) that no other point beats, by increasing cost.

    A point is beaten by one that is as cheap and better, or cheaper and as good.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    front: list[int] = []
    for i in order:
        if not front or points[i][1] > points[front[-1]][1]:
            front.append(i)
    return front
