"""Numbers printed in papers, shown beside measured ones and never averaged with them."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Protocol

from coincide.report.statistics import relative
from coincide.schema import UserError

SOURCE = (
    "As printed in MAGIC (arXiv 2605.26004), Tables 1-3, after COINCIDE (arXiv 2406.10995), Table 1"
)
SHORT = "MAGIC, Tables 1-3"
BUDGET = 0.2
"""All rows of these tables but full data are at 20 % of the data."""
_TABLES = {
    ("llava", "llava_1_5_7b"): "llava665k_20pct_llava15_7b",
    ("llava", "llava_1_5_13b"): "llava665k_20pct_llava15_13b",
    ("vision_flan", "llava_1_5_7b"): "vision_flan186k_20pct_llava15_7b",
}
FIELDS = ("split", "prompt", "scoring", "ocr_tokens", "judge")
"""Fields of a protocol that must agree before our figure is divided by a published one."""


class Columnar(Protocol):
    """A benchmark with its metric and protocol, as a panel's column has it."""

    @property
    def name(self) -> str: ...
    @property
    def metric(self) -> str: ...
    @property
    def protocol(self) -> str: ...


@dataclass(frozen=True)
class PublishedRow:
    """One row of a published table, at 20 % of the data (``full``: at 100 %)."""

    method: str
    scores: Mapping[str, float]
    """Benchmark -> score; MME is the perception score."""
    rel_printed: float
    rel: float
    """Recomputed from the columns against the table's own full-data row."""


@dataclass(frozen=True)
class PublishedTable:
    """A published table; the full-data row is the first."""

    name: str
    rows: tuple[PublishedRow, ...]
    source: str = SOURCE

    def row(self, method: str) -> PublishedRow | None:
        return next((row for row in self.rows if row.method == method), None)

    def prints(self, benchmark: str, metric: str, protocol: str) -> bool:
        """Whether the table has this benchmark, with this metric and on the whole split.

        Papers measure whole splits, so a subsample (``eval=fast``) is not comparable.
        """
        printed = benchmark in self.rows[0].scores and metric == protocols()[benchmark]["metric"]
        return printed and not is_part(protocol)

    def agreeing(self, columns: Sequence[Columnar]) -> list[str]:
        """Those of ``columns`` that are measured as the published figures were."""
        return [c.name for c in columns if not self.differs(c.name, c.metric, c.protocol)]

    def differs(self, benchmark: str, metric: str, protocol: str) -> str:
        """Why our figure cannot be divided by the published one; empty if the protocols agree.

        Every field that the published protocol states must be stated by ours: equal, or for
        ``scoring`` and ``judge`` with the same beginning, since ours add how a reply is read and
        the host.
        """
        if benchmark not in self.rows[0].scores:
            return "not published"
        if not self.prints(benchmark, metric, protocol):
            return "published in another metric or of the whole split alone"
        theirs, ours = protocols()[benchmark], stated(protocol)
        wrong = [name for name in FIELDS if not _agree(name, theirs[name], ours.get(name, ""))]
        if "lenient" in protocol and not wrong:
            return "ours is a lenient reading"
        return "; ".join(
            f"{name}: published {theirs[name]}, ours {ours.get(name) or 'not recorded'}"
            for name in wrong
        )


def published(name: str) -> list[PublishedRow]:
    """The rows of a published table, e.g. ``llava665k_20pct_llava15_7b``, full data first.

    Raises :class:`UserError`, with the choices, for an unknown name.
    """
    if name not in _TABLES.values():
        raise UserError(f"No published table {name!r}; there are {', '.join(_TABLES.values())}.")
    path = files("coincide") / "assets" / "published" / f"{name}.csv"
    lines = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    rows = [{k: float(v) for k, v in line.items() if k != "method"} for line in lines]
    full = {k: v for k, v in rows[0].items() if k != "rel"}
    return [_row(line["method"], row, full) for line, row in zip(lines, rows, strict=True)]


@cache
def protocols() -> Mapping[str, Mapping[str, str]]:
    """Benchmark -> its ``metric`` and ``FIELDS`` in all three published tables.

    They are those of LLaVA-1.5's scripts (haotian-liu/LLaVA, scripts/v1_5/eval), which the papers
    name.
    """
    path = files("coincide") / "assets" / "published" / "protocols.csv"
    lines = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    return {line["benchmark"]: line for line in lines}


def protocol_of(benchmark: str) -> str:
    """The published protocol as one line: ``split=test-dev; prompt=...``."""
    line = protocols()[benchmark]
    return "; ".join(f"{name}={line[name]}" for name in FIELDS if line[name])


def stated(protocol: str) -> dict[str, str]:
    """Field -> value of a protocol in one line.

    A part without ``=`` belongs to the field before it.
    """
    found: dict[str, str] = {}
    last = ""
    for said in protocol.split("; "):
        name, equals, value = said.partition("=")
        if equals and name.isidentifier():
            found[name], last = value, name
        elif last:
            found[last] += f"; {said}"
    return found


def _agree(name: str, theirs: str, ours: str) -> bool:
    if not theirs:
        return True
    return ours.startswith(theirs) if name in ("scoring", "judge") else ours == theirs


def is_part(protocol: str) -> bool:
    """Whether a protocol says that only some documents of the split are asked."""
    return any(said.partition("=")[0] in ("subsample", "limit") for said in protocol.split("; "))


def published_beside(data: str, target: str) -> PublishedTable | None:
    """The published table for a dataset and a target; None where there is none."""
    name = _TABLES.get((data, target))
    return PublishedTable(name, tuple(published(name))) if name else None


def _row(method: str, row: Mapping[str, float], full: Mapping[str, float]) -> PublishedRow:
    scores = {k: v for k, v in row.items() if k != "rel"}
    recomputed = relative([scores], [full], tuple(full)).estimate
    return PublishedRow(method, scores, row["rel"], recomputed.mean if recomputed else float("nan"))
