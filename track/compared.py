"""What a result comes to beside the others of the ledger: Rel. (%) of each run, and its cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from coincide.ledger.files import file_name
from coincide.report.compare import panels
from coincide.report.cost import charges
from coincide.schema import Result


@dataclass(frozen=True)
class Comparison:
    """Of one run. It changes as the ledger grows: a full-data run brings Rel. to all the others."""

    rel: float | None = None
    """Rel. (%) of this run alone, against the mean of our own full-data runs."""
    by_benchmark: Mapping[str, float] = field(default_factory=dict)
    """Benchmark -> 100 x score / mean score of the full-data runs, of those that Rel. is over."""
    metrics: frozenset[str] = frozenset()
    """The metrics that ``by_benchmark`` compares."""
    cost: Mapping[str, float] = field(default_factory=dict)
    label: str = ""
    """Of its row in the report: charts average the runs of a row, and of no other."""

    def summary(self) -> dict[str, float]:
        """Names as the charts of the dashboard ask for them; nothing where nothing is known."""
        found = {} if self.rel is None else {"rel": self.rel}
        found |= {f"rel/{name}": value for name, value in self.by_benchmark.items()}
        return found | {f"cost/{name}": value for name, value in self.cost.items()}


NOTHING = Comparison()


def compare_with_ledger(results: Sequence[Result]) -> dict[str, Comparison]:
    """File name in the ledger -> how that result compares among ``results``."""
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
    """Seconds and GPU hours of making the trained model; shared work charged whole."""
    found = []
    for charge in charges([[result] for result in results], results):
        seconds = charge.total(shared=False, gpu=False)
        gpu = charge.total(shared=False, gpu=True)
        cost = {} if seconds is None else {"seconds": seconds}
        found.append(cost | ({} if gpu is None else {"gpu_hours": gpu / 3600}))
    return found
