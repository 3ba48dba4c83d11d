"""Group results into panels of comparable rows: same data, target and suite, averaged over
seeds.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from coincide.ledger.identity import digest, same_asked
from coincide.ledger.result import Result, Score
from coincide.report.contents import (
    PANEL,
    SHORT,
    panel_key,
    panel_suffixes,
    row_content,
    sharing_notes,
    with_inferred_contents,
)
from coincide.report.cost import RunCost, charges
from coincide.report.noise import noise_notes
from coincide.report.notes import panel_notes, primary
from coincide.report.osc import osc_notes, with_osc
from coincide.report.published import PublishedTable, is_part, published_beside
from coincide.report.ranks import rank_notes
from coincide.report.records import FULL, Column, Note, Panel, PanelRow
from coincide.report.rel import is_target_aware, with_rel
from coincide.report.settings import identity, naming, setting, short_names
from coincide.report.signal import signal_notes
from coincide.report.statistics import Estimate, estimate
from coincide.system.files import canonical

COMMITTED = ", committed"
"""Appended to the label of a row that ships with the project."""
SEES_TARGETS = ", sees targets"
"""Appended to the label of a row whose method looked at samples of the target tasks."""


def panels(results: Sequence[Result]) -> list[Panel]:
    """One panel per (data, target, suite), sorted by name.

    Data and target are identified by content (``Result.contents``): several with the same name have
    a panel each, distinguished by the first digits of the content key.
    """
    results = with_inferred_contents(results)
    groups: dict[tuple[str, ...], list[Result]] = defaultdict(list)
    for result in results:
        groups[panel_key(result)].append(result)
    apart = panel_suffixes(groups)
    return [_panel(groups[key], results, apart[key]) for key in sorted(groups)]


def _panel(results: list[Result], everything: Sequence[Result], apart: str) -> Panel:
    first = results[0]
    groups, replaced = _by_row(results)
    kept = list(groups.values())
    columns = _columns([run for runs in kept for run in runs])
    rows = [
        _row(runs, columns, charge)
        for runs, charge in zip(kept, charges(kept, everything), strict=True)
    ]
    budgets = dict.fromkeys(row.budget for row in rows if row.method != FULL)
    zoo = published_beside(first.data, first.target, budgets)
    whole = [c for c in columns if not is_part(c.protocol)]
    if len(whole) < len(columns):  # eval=fast: parts of benchmarks, which papers do not print
        zoo = tuple(table for table in zoo if _any_printed(table, whole))
    labelled, usual = _labelled(rows)
    rows = with_osc(with_rel(labelled, columns, zoo))
    shared = sharing_notes(results, everything)
    notes = (
        *shared, *usual, *_committed(rows), *panel_notes(rows, replaced), *noise_notes(rows),
        *signal_notes(rows), *rank_notes(rows), *osc_notes(rows),
    )  # fmt: skip
    names = (first.data, first.target, first.suite)
    held = {part: first.contents[part] for part in PANEL if part in first.contents}
    return Panel(*names, columns, tuple(rows), notes, zoo, held, apart)


def _any_printed(zoo: PublishedTable, columns: Sequence[Column]) -> bool:
    return any(zoo.prints(c.name, c.metric, c.protocol) for c in columns)


def _by_row(results: Sequence[Result]) -> tuple[dict[str, list[Result]], list[Note]]:
    """Row identity -> runs that differ only in the seed.

    Of two runs with one seed the newer, and a note.
    """
    groups: dict[str, dict[int, Result]] = defaultdict(dict)
    notes = []
    apart = _protocols(results)
    for result in sorted(results, key=lambda r: (r.created, canonical(dict(r.keys)))):
        runs = groups[canonical([identity(result), apart[id(result)]])]
        older = runs.get(result.seed)
        if older is not None and (differing := _differing(older, result)):
            text = f"{result.method}, {result.k:,} examples, seed {result.seed} was run twice"
            text += f" with other scores ({differing}); the run of {result.created} counts"
            notes.append(Note(f"{text}, not that of {older.created}."))
        runs[result.seed] = result
    return {k: [runs[s] for s in sorted(runs)] for k, runs in sorted(groups.items())}, notes


def _protocols(results: Sequence[Result]) -> dict[int, str]:
    """``id`` of each result -> protocols of the benchmarks that all results of its setting have.

    Seeds that were evaluated with other protocols become rows of their own.
    """
    alike: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        alike[identity(result)].append(result)
    found = {}
    for runs in alike.values():
        scores = {id(run): primary(run) for run in runs}
        common = set.intersection(*(set(mine) for mine in scores.values()))
        for run in runs:
            mine = scores[id(run)]
            told = {name: [mine[name].metric, mine[name].protocol] for name in sorted(common)}
            found[id(run)] = canonical(told)
    return found


def _differing(older: Result, newer: Result) -> str:
    """The first three scores that differ, as text: ``gqa 61.2, then 61.9``."""
    before, after = primary(older), primary(newer)
    found = [
        f"{name} {_shown(before.get(name))}, then {_shown(after.get(name))}"
        for name in dict.fromkeys([*before, *after])
        if _shown(before.get(name)) != _shown(after.get(name))
    ]
    return "; ".join(found[:3]) + ("; ..." if len(found) > 3 else "")


def _shown(score: Score | None) -> str:
    return "missing" if score is None or score.value is None else f"{score.value:.4g}"


def _columns(results: Sequence[Result]) -> tuple[Column, ...]:
    """Benchmarks in the order of the suite, with the protocol of the full-data runs, else the most
    common.
    """
    ordered = sorted(results, key=lambda r: (r.method != FULL, r.method, r.k, r.seed))
    votes: dict[str, Counter[tuple[str, str, str]]] = defaultdict(Counter)
    for result in ordered:
        weight = len(ordered) + 1 if result.method == FULL else 1
        for name, score in primary(result).items():
            votes[name][(score.metric, score.protocol, score.asked)] += weight
    chosen = {name: max(sorted(v), key=v.__getitem__) for name, v in votes.items()}
    chance = {name: _chance(ordered, name, chosen[name]) for name in votes}
    return tuple(
        Column(name, metric, protocol, chance[name], asked)
        for name, (metric, protocol, asked) in chosen.items()
    )


def _chance(runs: Sequence[Result], benchmark: str, chosen: tuple[str, str, str]) -> float:
    """Score of guessing, from the configuration of the first run with the column's metric and
    protocol.

    Another metric has another value of guessing.
    """
    for run in runs:
        score = primary(run).get(benchmark)
        stated = benchmark_config(run, benchmark).get("chance")
        if score is None or (score.metric, score.protocol) != chosen[:2]:
            continue
        if isinstance(stated, int | float) and not isinstance(stated, bool):
            return float(stated)
    return 0.0


def benchmark_config(run: Result, name: str) -> Mapping[str, Any]:
    """The part of the run's configuration for benchmark ``name``; empty if there is none."""
    suite = run.config.get("eval")
    all_of_them = suite.get("benchmarks") if isinstance(suite, Mapping) else None
    if not isinstance(all_of_them, Mapping):
        return {}
    found = [b for b in all_of_them.values() if isinstance(b, Mapping) and b.get("name") == name]
    return found[0] if found else {}


def _row(runs: Sequence[Result], columns: Sequence[Column], charge: RunCost) -> PanelRow:
    scores: dict[str, Estimate] = {}
    missing: dict[str, str] = {}
    stderr: dict[str, float] = {}
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
    return PanelRow(
        first.method, first.variant, first.reference, first.method, setting(first), tuple(runs),
        scores, missing, stderr, charge,
    )  # fmt: skip


def _why_not(score: Score | None, column: Column) -> str:
    """Why a score does not belong to the column; empty if it does."""
    if score is None:
        return "not evaluated"
    if score.value is None:
        return score.why or "no score"
    if score.metric != column.metric:
        return f"another metric: {score.metric}, not {column.metric}"
    if score.protocol != column.protocol:
        return f"another protocol: {score.protocol or 'not recorded'}"
    if not same_asked(score.asked, column.asked):
        return "other documents, prompts or scoring under the same protocol"
    return ""


def _by_seed(runs: Sequence[Result], reasons: Sequence[str]) -> str:
    seeds: dict[str, list[str]] = defaultdict(list)
    for run, why in zip(runs, reasons, strict=True):
        if why:
            seeds[why].append(str(run.seed))
    if len(seeds) == 1 and all(reasons):
        return reasons[0]
    return "; ".join(f"seed {', '.join(which)}: {why}" for why, which in seeds.items())


def _labelled(rows: Sequence[PanelRow]) -> tuple[list[PanelRow], list[Note]]:
    """Rows with labels that distinguish them, and notes on what most rows of a method share."""
    methods: dict[str, list[PanelRow]] = defaultdict(list)
    for row in rows:
        methods[row.method].append(row)
    found, notes = [], []
    for method, mine in methods.items():
        several = len({row.reference for row in mine}) > 1
        names, usual = short_names([naming(row.setting, row.runs[0]) for row in mine])
        labelled = []
        for row, fields in zip(mine, names, strict=True):
            label = f"{method} ({row.variant})" if row.variant else method
            label += f" [{fields}]" if fields else ""
            label += f" via {row.reference}" if several and row.reference else ""
            label += SEES_TARGETS if is_target_aware(row.runs) else ""
            label += COMMITTED if row.committed else ""
            labelled.append(replace(row, label=label))
        found += _unlike(labelled)
        if usual:
            notes.append(Note(f"{method}, where its label does not say otherwise: {usual}."))
    told = sorted({row.label for row in found if " #" in row.label})
    if told:
        text = f"Names that several rows share, told apart by content: {', '.join(told)}"
        notes.append(Note(f"{text}. They differ in what their files, models or benchmarks hold."))
    return found, notes


def _committed(rows: Sequence[PanelRow]) -> list[Note]:
    """Notes on what the committed rows are, and how one's own runs replace them."""
    if not any(row.committed for row in rows):
        return []
    text = (
        "Rows marked committed ship with the project (docs/DEMO.md) and were not run here. A run "
        "of your own with the same method, examples and setting takes a row's place"
    )
    return [Note(text, "python run.py experiment=demo_table launcher=processes")]


def _unlike(rows: Sequence[PanelRow]) -> list[PanelRow]:
    """Rows with the same label that are not budgets of one experiment get digits of what
    differs.
    """
    alike: dict[str, dict[str, str]] = defaultdict(dict)
    own = [row_content(row.runs[0]) for row in rows]
    for row, contents in zip(rows, own, strict=True):
        alike[row.label][canonical(contents)] = ""
    twice = {(row.label, row.examples) for row in rows}
    crowded = {
        label for label, k in twice if sum((r.label, r.examples) == (label, k) for r in rows) > 1
    }
    found = []
    for row, contents in zip(rows, own, strict=True):
        if len(alike[row.label]) > 1:
            row = replace(row, label=f"{row.label} #{digest(contents)[:SHORT]}")
        elif row.label in crowded:
            said = {b: [s.metric, s.protocol, s.asked] for b, s in primary(row.runs[0]).items()}
            row = replace(row, label=f"{row.label} #{digest([row.setting, said])[:SHORT]}")
        found.append(row)
    return found


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
