"""Numbers printed in papers, shown beside measured ones and never averaged with them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Protocol

from coincide.report.statistics import relative
from coincide.schema import UserError

MAGIC = (
    "As printed in MAGIC (arXiv 2605.26004), Tables 1-3, after COINCIDE (arXiv 2406.10995), Table 1"
)
VISNEC = "As printed by VisNec (arXiv 2603.01195) on its page, its own runs"
DICS = (
    "As printed in DICS: Rel. over 12 benchmarks through VLMEvalKit with Qwen3-32B as judge, mean "
    "of 5 runs; its columns are not known here"
)
MMSSR = (
    "As printed by mmSSR (arXiv 2503.13383) on its page: Rel. over 10 benchmarks (MMBench v1.1 in "
    "English, MMStar, MMMU, MM-Vet, BLINK, MMT-Bench, MME, AI2D, ScienceQA, MathVista), of 2.6M "
    "rows of LLaVA-OneVision's single-image stage, on a model of that family before this stage; "
    "its perplexity takes the middle"
)


@dataclass(frozen=True)
class Printed:
    """Where a table was printed, and which runs it is about."""

    data: str
    target: str
    budget: float
    """Of all its rows but full data."""
    source: str
    short: str
    """The source in a few words."""


TABLES = {
    "llava665k_20pct_llava15_7b": Printed("llava", "llava_1_5_7b", 0.2, MAGIC, "MAGIC, Tables 1-3"),
    "llava665k_20pct_llava15_13b": Printed(
        "llava", "llava_1_5_13b", 0.2, MAGIC, "MAGIC, Tables 1-3"
    ),
    "vision_flan186k_20pct_llava15_7b": Printed(
        "vision_flan", "llava_1_5_7b", 0.2, MAGIC, "MAGIC, Tables 1-3"
    ),
    "llava665k_15pct_llava15_7b": Printed("llava", "llava_1_5_7b", 0.15, VISNEC, "VisNec's page"),
    "vision_flan186k_15pct_llava15_7b": Printed(
        "vision_flan", "llava_1_5_7b", 0.15, VISNEC, "VisNec's page"
    ),
    "llava665k_25pct_llava15_7b": Printed("llava", "llava_1_5_7b", 0.25, DICS, "DICS"),
    "vision_flan186k_25pct_llava15_7b": Printed("vision_flan", "llava_1_5_7b", 0.25, DICS, "DICS"),
    **{
        f"llava_onevision_{percent}pct_llava_onevision_7b": Printed(
            "llava_onevision", "llava_onevision_7b", percent / 100, MMSSR, "mmSSR's page"
        )
        for percent in (10, 5, 30)
    },
}
"""Name of a file -> what it is; of one dataset and target the usual budget first."""
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
    """One row of a published table, at the table's budget (``full``: at 100 %)."""

    method: str
    scores: Mapping[str, float]
    """Benchmark -> score; MME is the perception score. Empty where Rel. alone is known."""
    rel_printed: float
    rel: float
    """Recomputed from the columns against the table's own full-data row; as printed without any."""


@dataclass(frozen=True)
class PublishedTable:
    """A published table; the full-data row is the first, its Rel. 100."""

    name: str
    rows: tuple[PublishedRow, ...]
    printed: Printed

    @property
    def columns(self) -> tuple[str, ...]:
        """Its benchmarks; none if only Rel. is known."""
        return tuple(self.rows[0].scores)

    def is_at(self, budget: float) -> bool:
        """Whether its rows are at this share of the data."""
        return abs(budget - self.printed.budget) < 0.005

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
        theirs, ours = protocols()[benchmark], protocol_fields(protocol)
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
    if name not in TABLES:
        raise UserError(f"No published table {name!r}; there are {', '.join(TABLES)}.")
    path = files("coincide") / "assets" / "published" / f"{name}.csv"
    lines = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    rows = [{k: float(v) for k, v in line.items() if k != "method" and v} for line in lines]
    full = {k: v for k, v in rows[0].items() if k != "rel"}
    return [_row(line["method"], row, full) for line, row in zip(lines, rows, strict=True)]


@cache
def protocols() -> Mapping[str, Mapping[str, str]]:
    """Benchmark -> its ``metric`` and ``FIELDS`` in all published tables that have columns.

    They are those of LLaVA-1.5's scripts (haotian-liu/LLaVA, scripts/v1_5/eval), which the papers
    name or whose full-data figures they print.
    """
    path = files("coincide") / "assets" / "published" / "protocols.csv"
    lines = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    return {line["benchmark"]: line for line in lines}


def protocol_of(benchmark: str) -> str:
    """The published protocol as one line: ``split=test-dev; prompt=...``."""
    line = protocols()[benchmark]
    return "; ".join(f"{name}={line[name]}" for name in FIELDS if line[name])


def protocol_fields(protocol: str) -> dict[str, str]:
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


def published_beside(
    data: str, target: str, budgets: Iterable[float] = ()
) -> tuple[PublishedTable, ...]:
    """The published tables for a dataset and a target at any of ``budgets``.

    The one at the usual budget is among them unless another has columns, so that there is a full
    row to compare with; empty where nothing is published.
    """
    found = [
        PublishedTable(name, tuple(published(name)), printed)
        for name, printed in TABLES.items()
        if (printed.data, printed.target) == (data, target)
    ]
    asked = list(budgets)
    at = [table for table in found if any(table.is_at(budget) for budget in asked)]
    if any(table.columns for table in at) or not any(table.columns for table in found):
        return tuple(at or found[:1])
    return (*found[:1], *at)


def _row(method: str, row: Mapping[str, float], full: Mapping[str, float]) -> PublishedRow:
    scores = {k: v for k, v in row.items() if k != "rel"}
    if not scores:
        return PublishedRow(method, {}, row["rel"], row["rel"])
    recomputed = relative([scores], [full], tuple(full)).estimate
    return PublishedRow(method, scores, row["rel"], recomputed.mean if recomputed else float("nan"))
