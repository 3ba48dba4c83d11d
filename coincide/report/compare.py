"""Results -> panels of comparable rows: same data, target and suite, grouped over seeds."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from coincide.report.commands import full_run
from coincide.report.settings import Setting, conflicts, setting, short_names, whole_part
from coincide.report.statistics import Estimate, Relative, estimate, relative
from coincide.schema import Result, Score
from coincide.store import canonical

FULL = "full"


@dataclass(frozen=True)
class Column:
    """One benchmark of a panel: scores of another metric or protocol do not enter it."""

    name: str
    metric: str
    protocol: str


@dataclass(frozen=True)
class Note:
    """Something the reader must know, and the command that would mend it."""

    text: str
    command: str = ""


@dataclass(frozen=True)
class Row:
    """One method in one setting at one budget: its runs over seeds and what they come to."""

    method: str
    variant: str
    reference: str
    label: str
    """Method, variant, and the fields in which it differs from other rows of the method."""
    setting: Setting
    runs: tuple[Result, ...]
    """In the order of their seeds."""
    scores: Mapping[str, Estimate]
    """Benchmark -> primary score over all seeds. One that is not here is in ``missing``."""
    missing: Mapping[str, str]
    """Benchmark -> why there is no score."""
    stderr: Mapping[str, float]
    """Benchmark -> standard error over samples of one run (root mean square over seeds)."""
    rel: Relative
    rank: int | None = None
    """Place by Rel. among the rows of the same budget; None for the full run and without Rel."""

    @property
    def budget(self) -> float:
        """The fraction k / N."""
        return self.runs[0].budget

    @property
    def examples(self) -> int:
        """Rows trained on."""
        return self.runs[0].k

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in self.runs]

    @property
    def seconds(self) -> dict[str, float]:
        """Mean wall-clock seconds by stage, as first computed."""
        stages = dict.fromkeys(stage for run in self.runs for stage in run.seconds)
        return {s: _mean([r.seconds[s] for r in self.runs if s in r.seconds]) for s in stages}

    @property
    def composition(self) -> dict[str, float]:
        """Mean number of rows by source."""
        sources = dict.fromkeys(s for run in self.runs for s in run.composition)
        return {s: _mean([r.composition.get(s, 0) for r in self.runs]) for s in sources}


@dataclass(frozen=True)
class Panel:
    """Rows that may be compared: larger budgets first, best Rel. first within a budget."""

    data: str
    target: str
    suite: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[Note, ...]

    @property
    def title(self) -> str:
        return f"{self.target} on {self.data}, suite {self.suite}"


def panels(results: Sequence[Result]) -> list[Panel]:
    """One panel per (data, target, suite), in the order of their names."""
    groups: dict[tuple[str, str, str], list[Result]] = defaultdict(list)
    for result in results:
        groups[(result.data, result.target, result.suite)].append(result)
    return [_panel(*key, groups[key]) for key in sorted(groups)]


def primary(result: Result) -> dict[str, Score]:
    """Benchmark -> its first, primary score."""
    found: dict[str, Score] = {}
    for score in result.scores:
        found.setdefault(score.benchmark, score)
    return found


def _panel(data: str, target: str, suite: str, results: list[Result]) -> Panel:
    groups, replaced = _by_row(results)
    columns = _columns([run for runs in groups.values() for run in runs])
    rows = [_row(runs, columns) for runs in groups.values()]
    full = [row for row in rows if row.method == FULL]
    rows = _ranked([replace(row, rel=_rel(row, full)) for row in _labelled(rows)])
    notes = [*_notes_on_rel(rows, full), *_notes_on_seeds(rows, replaced), *_notes_on_n(rows)]
    return Panel(data, target, suite, columns, tuple(rows), tuple(notes))


def _by_row(results: Sequence[Result]) -> tuple[dict[str, list[Result]], list[Note]]:
    """Runs that differ in the seed alone, together; of two of one seed the newer, and a note."""
    groups: dict[str, dict[int, Result]] = defaultdict(dict)
    notes = []
    for result in sorted(results, key=lambda r: (r.created, canonical(dict(r.keys)))):
        identity = [result.method, result.variant, result.reference, result.k]
        runs = groups[canonical([*identity, setting(result)])]
        older = runs.get(result.seed)
        if older is not None and older.scores != result.scores:
            text = f"{result.method}, {result.k:,} examples, seed {result.seed} was run twice"
            notes.append(Note(f"{text} with other scores; the run of {result.created} counts."))
        runs[result.seed] = result
    return {k: [runs[s] for s in sorted(runs)] for k, runs in sorted(groups.items())}, notes


def _columns(results: Sequence[Result]) -> tuple[Column, ...]:
    """Benchmarks in the order of the suite, under the protocol of the full runs or of the most."""
    ordered = sorted(results, key=lambda r: (r.method != FULL, r.method, r.k, r.seed))
    votes: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    for result in ordered:
        weight = len(ordered) + 1 if result.method == FULL else 1
        for name, score in primary(result).items():
            votes[name][(score.metric, score.protocol)] += weight
    chosen = {name: max(sorted(v), key=v.__getitem__) for name, v in votes.items()}
    return tuple(Column(name, *chosen[name]) for name in votes)


def _row(runs: Sequence[Result], columns: Sequence[Column]) -> Row:
    scores: dict[str, Estimate] = {}
    missing, stderr = {}, {}
    for column in columns:
        found = [primary(run).get(column.name) for run in runs]
        reasons = [_why_not(score, column) for score in found]
        values = [s.value for s, why in zip(found, reasons, strict=True) if s and not why]
        if len(values) == len(runs):
            scores[column.name] = estimate([v for v in values if v is not None])
            errors = [s.stderr for s in found if s and s.stderr is not None]
            if errors:
                stderr[column.name] = math.sqrt(_mean([e**2 for e in errors]))
        else:
            missing[column.name] = _by_seed(runs, reasons)
    first = runs[0]
    return Row(
        first.method, first.variant, first.reference, first.method, setting(first), tuple(runs),
        scores, missing, stderr, Relative(None),
    )  # fmt: skip


def _why_not(score: Score | None, column: Column) -> str:
    """Why a score does not enter the column; empty when it does."""
    if score is None:
        return "not evaluated"
    if score.value is None:
        return score.why or "no score"
    if score.metric != column.metric:
        return f"another metric: {score.metric}, not {column.metric}"
    if score.protocol != column.protocol:
        return f"another protocol: {score.protocol or 'not recorded'}"
    return ""


def _by_seed(runs: Sequence[Result], reasons: Sequence[str]) -> str:
    seeds: dict[str, list[str]] = defaultdict(list)
    for run, why in zip(runs, reasons, strict=True):
        if why:
            seeds[why].append(str(run.seed))
    if len(seeds) == 1 and all(reasons):
        return reasons[0]
    return "; ".join(f"seed {', '.join(which)}: {why}" for why, which in seeds.items())


def _labelled(rows: Sequence[Row]) -> list[Row]:
    """Rows under labels that tell them apart."""
    methods: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        methods[row.method].append(row)
    found = []
    for method, mine in methods.items():
        several = len({row.reference for row in mine}) > 1
        for row, fields in zip(mine, short_names([r.setting for r in mine]), strict=True):
            label = f"{method} ({row.variant})" if row.variant else method
            label += f" [{fields}]" if fields else ""
            label += f" via {row.reference}" if several and row.reference else ""
            found.append(replace(row, label=label))
    return found


def _rel(row: Row, full: Sequence[Row]) -> Relative:
    """Rel. against our own full run of the same data, target, recipe and protocols."""
    if not full:
        return Relative(None, why="there is no full-data run")
    ours = whole_part(row.setting)
    against = [(conflicts(ours, whole_part(other.setting)), other) for other in full]
    against.sort(key=lambda pair: len(pair[0]))
    differing, nearest = against[0]
    if differing:
        shown = "; ".join(differing[:3]) + ("; ..." if len(differing) > 3 else "")
        return Relative(None, why=f"in the nearest full-data run {shown}")
    seeds = [{b: e.values[i] for b, e in row.scores.items()} for i in range(len(row.runs))]
    found = relative(seeds, {b: e.mean for b, e in nearest.scores.items()})
    return replace(found, left_out={**(found.left_out or {}), **row.missing})


def _ranked(rows: Sequence[Row]) -> list[Row]:
    def place(row: Row) -> tuple[int, bool, float, str]:
        mean = row.rel.estimate.mean if row.rel.estimate else -math.inf
        return -row.examples, row.method != FULL, -mean, row.label

    placed: Counter[int] = Counter()
    found = []
    for row in sorted(rows, key=place):
        if row.method != FULL and row.rel.estimate is not None:
            placed[row.examples] += 1
            row = replace(row, rank=placed[row.examples])
        found.append(row)
    return found


def _notes_on_rel(rows: Sequence[Row], full: Sequence[Row]) -> list[Note]:
    if rows and not full:
        text = "Rel. (%) is missing: there is no full-data run to be the 100 %. Make it with"
        return [Note(text, full_run(rows[0].runs[0]))]
    notes = []
    for row in rows:
        where = f"{row.label}, {row.examples:,} examples"
        if row.rel.estimate is None:
            notes.append(Note(f"{where}: no Rel. (%): {row.rel.why}.", full_run(row.runs[0])))
        elif row.rel.left_out:
            left = "; ".join(f"{name} ({why})" for name, why in row.rel.left_out.items())
            used = ", ".join(row.rel.columns)
            notes.append(Note(f"{where}: Rel. (%) is over {used}, without {left}."))
    return notes


def _notes_on_seeds(rows: Sequence[Row], replaced: Sequence[Note]) -> list[Note]:
    single = list(dict.fromkeys(row.label for row in rows if len(row.runs) == 1))
    if not single:
        return list(replaced)
    text = f"One seed, so no interval: {', '.join(single)}. Seed noise can exceed such differences."
    return [*replaced, Note(text)]


def _notes_on_n(rows: Sequence[Row]) -> list[Note]:
    """Benchmarks whose scores rest on different numbers of samples."""
    sizes: dict[str, set[int]] = defaultdict(set)
    for row in rows:
        for run in row.runs:
            for name, score in primary(run).items():
                if name in row.scores:
                    sizes[name].add(score.n)
    return [
        Note(f"{name}: scores rest on different numbers of samples: {sorted(found)}.")
        for name, found in sizes.items()
        if len(found) > 1
    ]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
