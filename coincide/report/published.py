"""Numbers that papers print, shown beside measured ones and never averaged with them."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

from coincide.report.statistics import relative
from coincide.schema import UserError

SOURCE = (
    "As printed in MAGIC (arXiv 2605.26004), Tables 1-3, after COINCIDE (arXiv 2406.10995), Table 1"
)
SHORT = "MAGIC, Tables 1-3"
BUDGET = 0.2
"""All rows of these tables but the full one are at 20 % of the data."""
_TABLES = {
    ("llava", "llava_1_5_7b"): "llava665k_20pct_llava15_7b",
    ("llava", "llava_1_5_13b"): "llava665k_20pct_llava15_13b",
    ("vision_flan", "llava_1_5_7b"): "vision_flan186k_20pct_llava15_7b",
}
_METRICS = {"pope": ("f1",), "mme": ("perception",)}
"""Metric of the columns that could be another: LLaVA prints POPE's F1 and MME's perception."""


@dataclass(frozen=True)
class Published:
    """One row of a published table, at 20 % of the data (``full``: at 100 %)."""

    method: str
    scores: Mapping[str, float]
    """Benchmark -> score; MME is the perception score."""
    rel_printed: float
    rel: float
    """Recomputed from the columns against the table's own full row."""


@dataclass(frozen=True)
class Table:
    """A published table: the full row first."""

    name: str
    rows: tuple[Published, ...]
    source: str = SOURCE

    def row(self, method: str) -> Published | None:
        return next((row for row in self.rows if row.method == method), None)

    def prints(self, benchmark: str, metric: str, protocol: str) -> bool:
        """Whether the table has this benchmark, in this metric as far as that is known, and whole:
        papers measure all of a split, so a part of one (``eval=fast``) is no such column.
        """
        known = _METRICS.get(benchmark)
        printed = benchmark in self.rows[0].scores and (known is None or metric in known)
        return printed and not is_part(protocol)


def published(name: str) -> list[Published]:
    """The rows of a published table, e.g. ``llava665k_20pct_llava15_7b``, the full run first.

    Raises :class:`UserError` with the choices for an unknown name.
    """
    if name not in _TABLES.values():
        raise UserError(f"No published table {name!r}; there are {', '.join(_TABLES.values())}.")
    path = files("coincide") / "assets" / "published" / f"{name}.csv"
    lines = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    rows = [{k: float(v) for k, v in line.items() if k != "method"} for line in lines]
    full = {k: v for k, v in rows[0].items() if k != "rel"}
    return [_row(line["method"], row, full) for line, row in zip(lines, rows, strict=True)]


def is_part(protocol: str) -> bool:
    """Whether a protocol says that only some documents of the split are asked."""
    return any(said.partition("=")[0] in ("subsample", "limit") for said in protocol.split("; "))


def published_beside(data: str, target: str) -> Table | None:
    """The published table for a dataset and a target; None where there is none."""
    name = _TABLES.get((data, target))
    return Table(name, tuple(published(name))) if name else None


def _row(method: str, row: Mapping[str, float], full: Mapping[str, float]) -> Published:
    scores = {k: v for k, v in row.items() if k != "rel"}
    recomputed = relative([scores], [full], tuple(full)).estimate
    return Published(method, scores, row["rel"], recomputed.mean if recomputed else float("nan"))
