"""OSC: whether a selection paid for the performance that it reached (PRISM, arXiv 2502.12119).

    OSC = P_full / P_subset * (T_select + T_train(subset)) / T_train(full)

P_subset / P_full is Rel. / 100, T_select all that the selection stands on, charged in full. Below 1
selecting and training on the subset cost less than training on everything, at the performance
reached. Time of a stage is GPU time where it used GPUs, else wall-clock time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from coincide.report.records import FULL, Note, PanelRow
from coincide.report.rel import full_run_of
from coincide.system.files import canonical

SELECTING = ("reference", "features", "select")


def with_osc(rows: Sequence[PanelRow]) -> list[PanelRow]:
    """``rows`` with ``osc``, or why there is none, in ``why_no_osc``."""
    full = [row for row in rows if row.method == FULL]
    found = []
    for row in rows:
        value, why = _osc(row, full)
        found.append(replace(row, osc=value, why_no_osc=why))
    return found


def osc_notes(rows: Sequence[PanelRow]) -> list[Note]:
    """What OSC is, where a row has one."""
    if all(row.osc is None for row in rows):
        return []
    text = (
        "OSC = (100 / Rel.) × (time of selection + training on the subset) / (training on all of "
        "it): below 1 the selection paid, at the performance that it reached. Selection is "
        "charged in full, with features and reference model, though other runs may share them; "
        "GPU time where a stage used GPUs, else wall-clock time. It is missing where Rel. or a "
        "time is, and where the two trainings ran on different machines."
    )
    return [Note(text)]


def _osc(row: PanelRow, full: Sequence[PanelRow]) -> tuple[float | None, str]:
    if row.method == FULL:
        return None, "the full run is what others are compared with"
    if row.rel.estimate is None:
        return None, f"no Rel. (%): {row.rel.why}"
    whole, why = full_run_of(row, full)
    if whole is None:
        return None, why
    if _machines(row) != _machines(whole):
        return None, "its runs and the full run are of different machines"
    mine, theirs = _seconds(row, "train"), _seconds(whole, "train")
    if not mine or not theirs or row.rel.estimate.mean <= 0:
        return None, "times of training are not recorded"
    selection = math.fsum(_seconds(row, stage) or 0.0 for stage in SELECTING)
    return 100 / row.rel.estimate.mean * (selection + mine) / theirs, ""


def _seconds(row: PanelRow, stage: str) -> float | None:
    return row.charge.gpu_whole.get(stage) or row.charge.whole.get(stage)


def _machines(row: PanelRow) -> set[str]:
    return {canonical(dict(run.hardware)) for run in row.runs}
