"""Rel. (%) of each row: relative to our full-data run, above chance, and to the published row.

The three are separate columns and never mixed. Each has a stated set of benchmarks; a row that
lacks one of them has no Rel., since a mean over fewer benchmarks would not be comparable.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from coincide.ledger.result import Result
from coincide.report.published import PublishedTable
from coincide.report.records import FULL, Column, PanelRow, table_at
from coincide.report.settings import conflicts, whole_part
from coincide.report.signal import left_out
from coincide.report.statistics import Estimate, Relative, relative, stated_columns

CUT_SHORT = "train.max_steps"
TARGET_AWARE = frozenset({"icons", "less", "rds"})
"""Methods that select with samples of the target tasks, which other methods never see; for results
that did not record the content of those (``Result.contents["targets"]``)."""


def with_rel(
    rows: Sequence[PanelRow], columns: Sequence[Column], zoo: Sequence[PublishedTable]
) -> list[PanelRow]:
    """Rows with Rel. and rank: larger budgets first, best first, target-aware ones last."""
    full = [row for row in rows if row.method == FULL]
    chance = {column.name: column.chance for column in columns}
    without = left_out(rows)
    found = [
        replace(
            row,
            rel=_own(row, full, {}, without),
            rel_chance=_own(row, full, chance, without),
            rel_zoo=_zoo(row, columns, table_at(zoo, row.budget)),
            target_aware=is_target_aware(row.runs),
        )
        for row in rows
    ]
    return _ranked(found)


def _own(
    row: PanelRow, full: Sequence[PanelRow], chance: Mapping[str, float], without: Mapping[str, str]
) -> Relative:
    """Relative to our own full-data runs with the same data, target, recipe and protocols, over all
    benchmarks but those in ``without``.

    A full-data run that was cut short (as many steps as a subset takes) is another experiment: if
    there is a complete one, that is 100 % for all rows, including the short one.
    """
    nearest, why = full_run_of(row, full)
    if nearest is None:
        return Relative(None, why=why)
    columns, out = stated_columns(nearest.by_seed, chance, nearest.stderr)
    columns = tuple(name for name in columns if name not in without)
    out |= {**without, **{name: f"full: {why}" for name, why in nearest.missing.items()}}
    found = relative(row.by_seed, nearest.by_seed, columns, chance=chance)
    if found.estimate and row is nearest:
        itself = Estimate(100.0, None, None, found.estimate.values)
        return replace(found, estimate=itself, left_out=out, no_interval="it is the 100 %")
    return replace(found, left_out=out, why=_lacking(found, row))


def full_run_of(row: PanelRow, full: Sequence[PanelRow]) -> tuple[PanelRow | None, str]:
    """The full-data run that is the 100 % of ``row``; or None, and why there is none."""
    if not full:
        return None, "there is no full-data run"
    ours = whole_part(row.setting)
    if row.method == FULL:
        ours = {name: value for name, value in ours.items() if name != CUT_SHORT}
    against = [(conflicts(ours, whole_part(other.setting)), other) for other in full]
    differing, nearest = min(against, key=lambda pair: (len(pair[0]), is_cut_short(pair[1])))
    if differing:
        shown = "; ".join(differing[:3]) + ("; ..." if len(differing) > 3 else "")
        return None, f"in the nearest full-data run {shown}"
    return nearest, ""


def is_cut_short(row: PanelRow) -> bool:
    """Whether its training ended after a number of steps instead of after its epochs."""
    return row.setting.get(CUT_SHORT) is not None


def _zoo(row: PanelRow, columns: Sequence[Column], zoo: PublishedTable | None) -> Relative:
    """Relative to the published full-data row, over the benchmarks whose protocols agree."""
    if zoo is None:
        return Relative(None, why="nothing published for this data and target")
    found = relative(row.by_seed, [zoo.rows[0].scores], zoo.agreeing(columns), full_is_exact=True)
    left_out = dict.fromkeys(zoo.rows[0].scores, "not measured here")
    left_out |= {c.name: zoo.differs(c.name, c.metric, c.protocol) for c in columns}
    left_out = {name: why for name, why in left_out.items() if why and name not in found.columns}
    why = _lacking(found, row) if found.columns else "no benchmark is measured as the published one"
    return replace(found, left_out=left_out, why="" if found.estimate else why)


def _lacking(found: Relative, row: PanelRow) -> str:
    reasons = [f"no {b} ({row.missing[b]})" for b in found.columns if b in row.missing]
    return "; ".join(reasons) or found.why


def is_target_aware(runs: Sequence[Result]) -> bool:
    """Whether the method of these runs looked at samples of the target tasks."""
    return any(_looked(run) for run in runs)


def _looked(run: Result) -> bool:
    method = run.config.get("method")
    stated = method.get("target_aware") if isinstance(method, Mapping) else None
    looked = "targets" in run.contents or run.method in TARGET_AWARE
    return looked if stated is None else bool(stated)


def _ranked(rows: Sequence[PanelRow]) -> list[PanelRow]:
    def place(row: PanelRow) -> tuple[int, int, bool, bool, float, str]:
        mean = row.rel.estimate.mean if row.rel.estimate else 0.0
        missing = row.rel.estimate is None
        group = is_cut_short(row) if row.method == FULL else 2
        return -row.examples, group, row.target_aware, missing, -mean, row.label

    placed: Counter[tuple[int, bool]] = Counter()
    found = []
    for row in sorted(rows, key=place):
        if row.method != FULL and row.rel.estimate is not None:
            placed[(row.examples, row.target_aware)] += 1
            row = replace(row, rank=placed[(row.examples, row.target_aware)])
        found.append(row)
    return found
