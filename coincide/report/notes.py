"""Notes for the reader of a panel, with commands that would fill the gaps."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import median

from coincide.ledger.result import Result, Score
from coincide.report.commands import full_run
from coincide.report.records import FULL, Note, PanelRow


def panel_notes(rows: Sequence[PanelRow], replaced: Sequence[Note]) -> tuple[Note, ...]:
    """Notes on Rel., on single seeds and replaced runs, and on numbers of samples."""
    return (
        *_on_rel(rows),
        *_on_seeds(rows, replaced),
        *_on_samples(rows),
        *_on_replies(rows),
    )


def primary(result: Result) -> dict[str, Score]:
    """Benchmark -> its primary score, the first one."""
    found: dict[str, Score] = {}
    for score in result.scores:
        found.setdefault(score.benchmark, score)
    return found


def read_share(row: PanelRow, benchmark: str) -> float | None:
    """Share of the replies that could be read, averaged over seeds; None if a seed lacks it."""
    scores = [primary(run).get(benchmark) for run in row.runs]
    shares = [s.readable for s in scores if s is not None and s.readable is not None]
    return math.fsum(shares) / len(shares) if shares and len(shares) == len(scores) else None


def _on_rel(rows: Sequence[PanelRow]) -> list[Note]:
    if rows and not any(row.method == FULL for row in rows):
        text = "Rel. (%) is missing: there is no full-data run to be the 100 %. Make it with"
        return [Note(text, full_run(rows[0].runs[0]))]
    return [_without_rel(row) for row in rows if row.rel.estimate is None] + _left_out(rows)


def _without_rel(row: PanelRow) -> Note:
    text = f"{row.label}, {row.examples:,} examples: no Rel. (%): {row.rel.why}."
    return Note(text, "" if row.rel.columns else full_run(row.runs[0]))


def _left_out(rows: Sequence[PanelRow]) -> list[Note]:
    reasons = {name: why for row in rows for name, why in row.rel.left_out.items()}
    return [Note(f"Rel. (%) is without {name} for all: {why}.") for name, why in reasons.items()]


def _on_seeds(rows: Sequence[PanelRow], replaced: Sequence[Note]) -> list[Note]:
    single = list(dict.fromkeys(row.label for row in rows if len(row.runs) == 1))
    notes = list(replaced)
    if single:
        text = f"One seed, so no interval: {', '.join(single)}."
        notes.append(Note(f"{text} Seed noise can exceed such differences."))
    if any(len(row.runs) == 2 for row in rows):
        text = "Two seeds say little about their spread: intervals are 12.7 standard errors wide on"
        notes.append(Note(f"{text} either side; a third seed makes that 4.3."))
    return notes


def _on_samples(rows: Sequence[PanelRow]) -> list[Note]:
    """Benchmarks whose scores are based on different numbers of samples."""
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


OFF = 0.01
"""Shares of readable replies that differ by more than this (one point) are noted."""


def _on_replies(rows: Sequence[PanelRow]) -> list[Note]:
    """Rows whose replies could be read more or less often than the panel's median."""
    found = []
    for name in dict.fromkeys(name for row in rows for name in row.scores):
        shares = {i: s for i, row in enumerate(rows) if (s := read_share(row, name)) is not None}
        middle = median(shares.values()) if shares else 0.0
        off = [
            f"{rows[i].label}, {rows[i].examples:,} examples: {share:.1%}"
            for i, share in shares.items()
            if abs(share - middle) > OFF + 1e-9
        ]
        if off:
            text = f"{name}: the share of replies that could be read is {middle:.1%} in the middle"
            text += f" of the panel, but {'; '.join(off)}. Form moves such a score, not knowledge "
            found.append(Note(f"{text}alone; the same replies read leniently:", LENIENT_COMMAND))
    return found


LENIENT_COMMAND = "python -m coincide.report ledger scoring=lenient"
