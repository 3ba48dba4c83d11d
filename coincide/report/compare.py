"""Results -> panels of comparable rows: same data, target and suite, grouped over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from coincide.report.statistics import Estimate, Relative, estimate, relative
from coincide.schema import Result, Score


@dataclass(frozen=True)
class Row:
    """One method at one budget: its runs over seeds and what they come to."""

    method: str
    variant: str
    budget: float
    runs: tuple[Result, ...]
    scores: Mapping[str, Estimate]
    """Benchmark -> primary score. A benchmark that is missing here is in ``missing``."""
    missing: Mapping[str, str]
    """Benchmark -> why there is no score."""
    rel: Relative

    @property
    def label(self) -> str:
        """Method, with its variant when it has one."""
        return f"{self.method} ({self.variant})" if self.variant else self.method

    @property
    def examples(self) -> int:
        """Rows trained on (the first seed's)."""
        return self.runs[0].k

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in self.runs]

    def seconds(self, stage: str) -> float:
        """Mean wall-clock seconds of ``stage`` as first computed."""
        values = [run.seconds.get(stage, 0.0) for run in self.runs]
        return sum(values) / len(values)


@dataclass(frozen=True)
class Panel:
    """Rows that may be compared, best Rel. first, and the columns they are compared on."""

    data: str
    target: str
    suite: str
    columns: tuple[str, ...]
    metrics: Mapping[str, str]
    protocols: Mapping[str, str]
    rows: tuple[Row, ...]
    warnings: tuple[str, ...] = field(default=())

    @property
    def title(self) -> str:
        return f"{self.target} on {self.data}, suite {self.suite}"


def panels(results: Sequence[Result]) -> list[Panel]:
    """One panel per (data, target, suite), in the order of their names."""
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.data, result.target, result.suite), []).append(result)
    return [_panel(*key, groups[key]) for key in sorted(groups)]


def primary(result: Result) -> dict[str, Score]:
    """Benchmark -> its first, primary score."""
    found: dict[str, Score] = {}
    for score in result.scores:
        found.setdefault(score.benchmark, score)
    return found


def _panel(data: str, target: str, suite: str, results: list[Result]) -> Panel:
    latest = _latest(results)
    full = [result for result in latest if result.method == "full"]
    reference: dict[str, Score] = {}
    for result in [*full, *latest]:
        for name, score in primary(result).items():
            reference.setdefault(name, score)
    whole = _means([_values(result, reference)[0] for result in full])
    rows = [_row(key, runs, reference, whole) for key, runs in _by_row(latest).items()]
    rows.sort(key=lambda r: (-(r.rel.estimate.mean if r.rel.estimate else -1.0), r.label, r.budget))
    warnings = []
    if not full:
        warnings.append(
            f"Rel. (%) is missing: there is no full-data run of {target} on {data}. "
            f"Make it: python run.py method=full data={data} target={target} eval={suite}"
        )
    return Panel(
        data,
        target,
        suite,
        columns=tuple(reference),
        metrics={name: score.metric for name, score in reference.items()},
        protocols={name: score.protocol for name, score in reference.items()},
        rows=tuple(rows),
        warnings=tuple(warnings),
    )


def _latest(results: Sequence[Result]) -> list[Result]:
    """The newest result of each setting and seed: a rerun with other keys replaces the old one."""
    newest: dict[tuple[str, str, int, int], Result] = {}
    for result in sorted(results, key=lambda r: r.created):
        newest[(result.method, result.variant, result.k, result.seed)] = result
    return sorted(newest.values(), key=lambda r: (r.method, r.variant, r.k, r.seed))


def _by_row(results: Sequence[Result]) -> dict[tuple[str, str, float], list[Result]]:
    rows: dict[tuple[str, str, float], list[Result]] = {}
    for result in results:
        rows.setdefault((result.method, result.variant, result.budget), []).append(result)
    return rows


def _row(
    key: tuple[str, str, float],
    runs: list[Result],
    reference: Mapping[str, Score],
    whole: Mapping[str, float],
) -> Row:
    values, reasons = zip(*(_values(run, reference) for run in runs), strict=True)
    missing: dict[str, str] = {}
    scores: dict[str, Estimate] = {}
    for name in reference:
        found = [v[name] for v in values if name in v]
        if len(found) == len(runs):
            scores[name] = estimate(found)
        else:
            missing[name] = next(r[name] for r in reasons if name in r)
    rel = relative(values, whole) if whole else Relative(None, why="no full-data run")
    return Row(*key, runs=tuple(runs), scores=scores, missing=missing, rel=rel)


def _values(
    result: Result, reference: Mapping[str, Score]
) -> tuple[dict[str, float], dict[str, str]]:
    """Primary scores that may be compared, and why the others may not."""
    scores, reasons = primary(result), {}
    values: dict[str, float] = {}
    for name, wanted in reference.items():
        score = scores.get(name)
        if score is None:
            reasons[name] = "not evaluated"
        elif score.value is None:
            reasons[name] = score.why or "no score"
        elif (score.metric, score.protocol) != (wanted.metric, wanted.protocol):
            reasons[name] = f"another protocol: {score.metric}, {score.protocol}"
        else:
            values[name] = score.value
    return values, reasons


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Column means over the seeds of the full run, where every seed has the score."""
    if not rows:
        return {}
    shared = [name for name in rows[0] if all(name in row for row in rows)]
    return {name: sum(row[name] for row in rows) / len(rows) for name in shared}
