"""How a run compares with the others of the ledger: its Rel. (%), and its cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from coincide.ledger.files import file_name
from coincide.ledger.result import Result
from coincide.report.compare import panels
from coincide.report.cost import charges


@dataclass(frozen=True)
class Comparison:
    """Figures of one run. They change as the ledger grows: a full-data run gives all others a
    Rel.
    """

    rel: float | None = None
    """Rel. (%) of this run alone, relative to the mean of our own full-data runs."""
    by_benchmark: Mapping[str, float] = field(default_factory=dict)
    """Benchmark -> 100 x score / mean score of the full-data runs, for the benchmarks of Rel."""
    metrics: frozenset[str] = frozenset()
    """The metrics of ``by_benchmark``."""
    cost: Mapping[str, float] = field(default_factory=dict)
    label: str = ""
    """Label of its row in the report: charts average over the runs with the same label."""

    def summary(self) -> dict[str, float]:
        """The figures under the names that the dashboard's charts use.

        Unknown ones are left out.
        """
        found = {} if self.rel is None else {"rel": self.rel}
        found |= {f"rel/{name}": value for name, value in self.by_benchmark.items()}
        return found | {f"cost/{name}": value for name, value in self.cost.items()}


NOTHING = Comparison()


def compare_with_ledger(results: Sequence[Result]) -> dict[str, Comparison]:
    """File name in the ledger -> comparison of that result with all ``results``."""
    costs = dict(zip(map(file_name, results), _costs(results), strict=True))
    found = {name: Comparison(cost=cost) for name, cost in costs.items()}
    for panel in panels(results):
        full = [row for row in panel.rows if row.method == "full"]
        best = {b: e.mean for row in full for b, e in row.scores.items() if e.mean > 0}
        metrics = frozenset(column.metric for column in panel.columns)
        for row in panel.rows:
            whole = row.rel.estimate
            for i, run in enumerate(row.runs):
                scores = {b: row.scores[b].values[i] for b in row.rel.columns if b in best}
                name = file_name(run)
                found[name] = Comparison(
                    whole.values[i] if whole else None,
                    {b: 100 * score / best[b] for b, score in scores.items()} if whole else {},
                    metrics,
                    costs[name],
                    row.label,
                )
    return found


def _costs(results: Sequence[Result]) -> list[dict[str, float]]:
    """Seconds and GPU hours for making each trained model; shared work charged in full."""
    found = []
    for charge in charges([[result] for result in results], results):
        seconds = charge.total(shared=False, gpu=False)
        gpu = charge.total(shared=False, gpu=True)
        cost = {} if seconds is None else {"seconds": seconds}
        found.append(cost | ({} if gpu is None else {"gpu_hours": gpu / 3600}))
    return found
