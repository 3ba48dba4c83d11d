"""Compare every pair of rows of a panel on the same samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from coincide.ledger.evidence import ArtifactShelf
from coincide.report.notes import primary
from coincide.report.paired import (
    OVERALL,
    Difference,
    Distribution,
    Sampled,
    bootstrap,
    compare_to,
    interval,
    welch,
)
from coincide.report.records import FULL, Panel, PanelRow

RunPair = tuple[int, int]
Numbers = Mapping[str, np.ndarray]
LEFT_OUT = "is left out of differences"


@dataclass(frozen=True)
class Pairs:
    """Differences between rows of a panel.

    Keys are pairs of row indices, the better ranked one first.
    """

    of: str
    """The figure that is compared over all benchmarks: ``Rel. (%)`` or ``mean score``."""
    columns: tuple[str, ...] = ()
    """The benchmarks of that figure."""
    overall: Mapping[RunPair, Difference] = field(default_factory=dict)
    by_benchmark: Mapping[RunPair, Mapping[str, Difference]] = field(default_factory=dict)
    intervals: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    """Row -> 95 % interval of its figure over samples and seeds, including those of the full
    run."""
    why: tuple[str, ...] = ()
    """What could not be compared on samples, and why."""

    def between(self, first: int, second: int) -> Difference | None:
        """First minus second over all benchmarks, for rows in either order; None if not known."""
        found = self.overall.get((min(first, second), max(first, second)))
        return found.turned() if found and first > second else found


def compare_all(panel: Panel, shelf: ArtifactShelf, *, seed: int = 0) -> Pairs:
    """Compare on samples where the store has them, else by the seeds' values."""
    rows = list(range(len(panel.rows)))
    columns = _stated(panel)
    full = next((i for i in rows if panel.rows[i].method == FULL), None)
    files = {i: _files(panel.rows[i], columns, shelf) for i in rows}
    have = [i for i in rows if not isinstance(files[i], str)]
    whole = full if full in have and panel.rows[full or 0].rel.columns == columns else None
    why = _reasons(panel, files)
    found: dict[str, Distribution] = {}
    left_out: tuple[str, ...] = ()
    if len(have) > 1 and columns:
        groups, start = [], 0
        for i in have:
            groups.append(range(start, start + len(panel.rows[i].runs)))
            start += len(panel.rows[i].runs)
        sampled, unfit = _sampled(panel, columns, [files[i] for i in have], have)  # type: ignore[misc]
        why += unfit
        if sampled:
            left_out = tuple(name for name in columns if name not in sampled)
            columns = tuple(sampled)
            at = None if whole is None else have.index(whole)
            found = bootstrap(sampled, groups, at, seed=seed)
            if OVERALL not in found:
                why.append("a full-data score is too near 0 for ratios of its samples")
    return _pairs(panel, columns, have if found else [], found, whole, tuple(why), left_out)


def _reasons(panel: Panel, files: Mapping[int, object]) -> list[str]:
    """``reason (rows)``, each reason once."""
    found: dict[str, list[str]] = {}
    for i, reason in files.items():
        if isinstance(reason, str):
            found.setdefault(reason, []).append(panel.rows[i].label)
    return [f"{reason} ({', '.join(dict.fromkeys(who))})" for reason, who in found.items()]


def _pairs(
    panel: Panel,
    columns: tuple[str, ...],
    have: Sequence[int],
    found: Mapping[str, Distribution],
    full: int | None,
    why: tuple[str, ...],
    left_out: tuple[str, ...],
) -> Pairs:
    at = {row: place for place, row in enumerate(have)}
    overall: dict[RunPair, Difference] = {}
    by_benchmark: dict[RunPair, dict[str, Difference]] = {}
    relative = full is not None or all(row.rel.columns for row in panel.rows)
    drawn = {name: _against_later(of) for name, of in found.items()}
    for i, j in combinations(range(len(panel.rows)), 2):
        if i in at and j in at:
            by_benchmark[i, j] = {b: drawn[b][at[i], at[j]] for b in columns if b in found}
        if i in at and j in at and OVERALL in found:
            overall[i, j] = drawn[OVERALL][at[i], at[j]]
        elif by_seeds := _by_seeds(panel.rows[i], panel.rows[j], left_out):
            overall[i, j] = by_seeds
    intervals = {}
    if full is not None and OVERALL in found:
        intervals = {
            i: interval(found[OVERALL], at[i])
            for i in have
            if i != full and _is_its_rel(panel.rows[i], float(found[OVERALL].points[at[i]]))
        }
    name = "Rel. (%)" if relative else "mean score"
    name += f" without {', '.join(left_out)}" if left_out else ""
    return Pairs(name, columns, overall, by_benchmark, intervals, why)


def _against_later(of: Distribution) -> dict[RunPair, Difference]:
    """Each row minus each later one."""
    count = len(of.points)
    later = ((i, range(i + 1, count)) for i in range(count - 1))
    return {
        (i, j): difference
        for i, others in later
        for j, difference in zip(others, compare_to(of, i, others), strict=True)
    }


def _is_its_rel(row: PanelRow, point: float) -> bool:
    """Whether ``point`` is the row's Rel.

    It is not if fewer samples are shared, or if its Rel. refers to another full-data run.
    """
    return row.rel.estimate is not None and math.isclose(row.rel.estimate.mean, point, rel_tol=1e-3)


def _by_seeds(first: PanelRow, second: PanelRow, left_out: tuple[str, ...]) -> Difference | None:
    """The difference from each seed's Rel. alone.

    None unless both rows have two seeds, and if a ``left_out`` benchmark is among the columns of
    Rel.
    """
    if first.rel.estimate is None or second.rel.estimate is None:
        return None
    if first.rel.columns != second.rel.columns or set(first.rel.columns) & set(left_out):
        return None
    return welch(first.rel.estimate.values, second.rel.estimate.values)


def _stated(panel: Panel) -> tuple[str, ...]:
    """The columns of Rel.; without a full run, those that every row has."""
    stated = [row.rel.columns for row in panel.rows if row.rel.columns]
    if stated:
        return stated[0]
    names = [column.name for column in panel.columns]
    return tuple(b for b in names if all(b in row.scores for row in panel.rows))


def _files(
    row: PanelRow, columns: Sequence[str], shelf: ArtifactShelf
) -> dict[str, list[Numbers]] | str:
    """Benchmark -> samples of each run; or the reason why there are none."""
    found: dict[str, list[Numbers]] = {}
    for name in columns:
        if name not in row.scores:
            return f"no {name} ({row.missing.get(name, 'no score')})"
        samples = [shelf.samples(run, name) for run in row.runs]
        if any(one is None for one in samples):
            return f"the samples of {name} are not in this store"
        found[name] = [one.numbers for one in samples if one is not None]
    return found


def _sampled(
    panel: Panel, columns: Sequence[str], files: Sequence[Mapping[str, list[Numbers]]],
    rows: Sequence[int],
) -> tuple[dict[str, Sampled], list[str]]:  # fmt: skip
    """Benchmark -> the samples that all runs share; and what is wrong with others."""
    found, unfit = {}, []
    runs = [run for i in rows for run in panel.rows[i].runs]
    for name in columns:
        of_runs = [numbers for file in files for numbers in file[name]]
        one = shared_samples(of_runs)
        if one is None:
            unfit.append(f"{name} {LEFT_OUT}: the runs have no sample in common")
            continue
        printed = [primary(run)[name].value or 0.0 for run in runs]
        sizes = {len(numbers["doc_id"]) for numbers in of_runs}
        differing = _differing(one.scores(), printed) if len(sizes) == 1 else None
        if differing is not None:
            label = [panel.rows[i].label for i in rows for _ in panel.rows[i].runs][differing]
            unfit.append(
                f"{name} {LEFT_OUT}: the samples of {label}, seed {runs[differing].seed}, add up "
                f"to {one.scores()[differing]:.6g}, its score is {printed[differing]:.6g}"
            )
            continue
        found[name] = one
    return found, unfit


def _differing(ours: np.ndarray, printed: Sequence[float]) -> int | None:
    """The first run whose samples do not add up to its score; None if all do."""
    for i, (a, b) in enumerate(zip(ours, printed, strict=True)):
        if not math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-6):
            return i
    return None


def shared_samples(runs: Sequence[Numbers]) -> Sampled | None:
    """The samples that all of ``runs`` have scored, summed by unit; None if there are none."""
    shared = common_documents(runs)
    if not len(shared):
        return None
    # runs that answered the same documents have one column of them
    of = {id(n["doc_id"]): np.flatnonzero(np.isin(n["doc_id"], shared)) for n in runs}
    places = [of[id(numbers["doc_id"])] for numbers in runs]
    stratum = runs[0]["stratum"][places[0]]
    units_of = {
        (id(numbers["unit"]), id(place)): numbers["unit"][place]
        for numbers, place in zip(runs, places, strict=True)
    }
    unit = coarsest_units(list(units_of.values()))
    keys = np.char.add(np.char.add(stratum, "\n"), unit)
    _, start, inverse = np.unique(keys, return_index=True, return_inverse=True)
    _, strata = np.unique(stratum[start], return_inverse=True)
    _, units = np.unique(unit[start], return_inverse=True)
    parts = {}
    for name in ("num", "den"):
        parts[name] = np.zeros((len(runs), len(start)))
        for r, (numbers, place) in enumerate(zip(runs, places, strict=True)):
            np.add.at(parts[name][r], inverse, numbers[name][place])
    return Sampled(parts["num"], parts["den"], strata, units)


def common_documents(runs: Sequence[Numbers]) -> np.ndarray:
    """The documents that all of ``runs`` have a score for, ascending."""
    columns = list({id(numbers["doc_id"]): numbers["doc_id"] for numbers in runs}.values())
    shared = columns[0]
    for column in columns[1:]:
        shared = np.intersect1d(shared, column)
    return shared


def coarsest_units(units: Sequence[np.ndarray]) -> np.ndarray:
    """The coarsest of the units [n] that different runs recorded for the same samples.

    A run from before units were recorded has one unit per sample; what belongs together does not
    depend on the run.
    """
    return min(units, key=lambda mine: len(np.unique(mine)))
