"""The records of a report: panels of comparable rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from coincide.ledger.result import CommittedResult, Result
from coincide.report.cost import RunCost
from coincide.report.published import PublishedTable
from coincide.report.settings import Setting
from coincide.report.statistics import NO_REL, Estimate, Relative

FULL = "full"


@dataclass(frozen=True)
class Column:
    """One benchmark of a panel; scores with another metric or protocol do not belong to it."""

    name: str
    metric: str
    protocol: str
    chance: float = 0.0
    """Score of guessing without looking at the picture."""
    asked: str = ""
    """``Score.asked`` of its scores; empty: not recorded."""


@dataclass(frozen=True)
class Note:
    """A note for the reader, and a command that would fill the gap."""

    text: str
    command: str = ""


@dataclass(frozen=True)
class PanelRow:
    """One method with one setting at one budget: its runs over seeds and their averages."""

    method: str
    variant: str
    reference: str
    label: str
    """Method, variant, and the fields in which it differs from other rows of the method."""
    setting: Setting
    runs: tuple[Result, ...]
    """Ordered by seed."""
    scores: Mapping[str, Estimate]
    """Benchmark -> primary score over all seeds. A benchmark without one is in ``missing``."""
    missing: Mapping[str, str]
    """Benchmark -> why there is no score."""
    stderr: Mapping[str, float]
    """Benchmark -> standard error over samples of one run (root mean square over seeds)."""
    charge: RunCost
    """What the runs cost."""
    rel: Relative = NO_REL
    """Relative to our own full-data runs (``rel_own``)."""
    rel_chance: Relative = NO_REL
    """The same, with scores above chance."""
    rel_zoo: Relative = NO_REL
    """Relative to the published full-data row. Never mixed with ``rel``."""
    target_aware: bool = False
    """It has seen samples of the target tasks, so it is ranked in a group of its own."""
    rank: int | None = None
    """Rank by Rel. in its group at its budget; None for the full run and without Rel."""
    osc: float | None = None
    """Cost of selection and training against training on all, at the performance reached."""
    why_no_osc: str = ""

    @property
    def budget(self) -> float:
        """The fraction k / N."""
        return self.runs[0].budget

    @property
    def committed(self) -> bool:
        """Whether it ships with the project and none of its runs is the user's."""
        return all(isinstance(run, CommittedResult) for run in self.runs)

    @property
    def examples(self) -> int:
        """Number of rows trained on."""
        return self.runs[0].k

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in self.runs]

    @property
    def seconds(self) -> Mapping[str, float]:
        """Mean wall-clock seconds by stage, when first computed."""
        return self.charge.whole

    @property
    def composition(self) -> dict[str, float]:
        """Mean number of rows by source."""
        sources = dict.fromkeys(s for run in self.runs for s in run.composition)
        counts = {s: [r.composition.get(s, 0) for r in self.runs] for s in sources}
        return {s: math.fsum(found) / len(found) for s, found in counts.items()}

    @property
    def by_seed(self) -> list[dict[str, float]]:
        """Benchmark -> score, of each run."""
        return [
            {name: found.values[i] for name, found in self.scores.items()}
            for i in range(len(self.runs))
        ]


def table_at(zoo: Sequence[PublishedTable], budget: float) -> PublishedTable | None:
    """Of the tables with columns that at ``budget``, else the first; None without any."""
    whole = [table for table in zoo if table.columns]
    return next((table for table in whole if table.is_at(budget)), next(iter(whole), None))


@dataclass(frozen=True)
class Panel:
    """Comparable rows: larger budgets first, best Rel. first within a budget."""

    data: str
    target: str
    suite: str
    columns: tuple[Column, ...]
    rows: tuple[PanelRow, ...]
    notes: tuple[Note, ...]
    zoo: tuple[PublishedTable, ...] = ()
    """The published tables for this data and target, one a budget."""
    contents: Mapping[str, str] = field(default_factory=dict)
    """Keys of ``data`` and ``target``, if recorded."""
    apart: str = ""
    """What distinguishes it from panels with the same names: ``data 1a2b3c``."""

    def table_of(self, row: PanelRow) -> PublishedTable | None:
        """The published table whose full row is the 100 % of ``row`` against published."""
        return table_at(self.zoo, row.budget)

    @property
    def title(self) -> str:
        names = f"{self.target} on {self.data}, suite {self.suite}"
        return f"{names} ({self.apart})" if self.apart else names

    def column(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)
