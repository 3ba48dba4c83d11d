"""Report on the faults of a dataset: kinds with counts, first rows, sources."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from coincide.protocols import HasPolicies
from coincide.schema import UserError
from coincide.terminal.inert import inert

FIRST = 10
"""Number of rows or ids that a report names for each kind."""

CHOICES = {
    "on_bad_row": ("error", "drop"),
    "on_missing_image": ("error", "drop", "blank"),
    "on_corrupt_image": ("error", "drop", "blank"),
}


@dataclass(frozen=True)
class Policies:
    """What to do with faulty rows.

    ``error``: stop; ``drop``: leave the row out of the pool; ``blank``: replace the image by a
    blank one.
    """

    on_bad_row: str = "error"
    on_missing_image: str = "error"
    on_corrupt_image: str = "error"

    def __post_init__(self) -> None:
        """Raise UserError for an unknown choice."""
        for option, choices in CHOICES.items():
            got = getattr(self, option)
            if got not in choices:
                raise UserError(f"{option}={got!r}: the choices are {', '.join(choices)}.")


def policies_of(source: object) -> Policies:
    """The policies of a dataset; if it has none to choose, those that stop at every fault."""
    return source.policies if isinstance(source, HasPolicies) else Policies()


@dataclass
class Problem:
    """One kind of fault. ``rows``: the first ten; ``sources``: counts over all."""

    policy: str
    """The option that decides: ``on_bad_row``, ``on_missing_image`` or ``on_corrupt_image``."""
    count: int = 0
    rows: list[int] = field(default_factory=list)
    example: str = ""
    """The first case in words."""
    sources: dict[str, int] = field(default_factory=dict)

    def add(self, row: int, source: str, detail: str) -> None:
        """Count one faulty row."""
        self.count += 1
        self.sources[source] = self.sources.get(source, 0) + 1
        self.example = self.example or detail
        if len(self.rows) < FIRST:
            self.rows.append(row)


@dataclass
class DataReport:
    """Figures of a dataset; every field is JSON."""

    name: str
    rows: int = 0
    dropped: int = 0
    blank: int = 0
    text_only: int = 0
    turns: int = 0
    images: int = 0
    """Number of distinct image files."""
    duplicate_ids: int = 0
    """Ids that several rows have; harmless, since rows are identified by index."""
    duplicate_ids_first: list[str] = field(default_factory=list)
    without_id: int = 0
    left_out_turns: int = 0
    """Leading system or gpt turns, which LLaVA leaves out as well."""
    unlearnt_turns: int = 0
    """Answers that the data marks as not to be learnt; they are context only."""
    sources: dict[str, int] = field(default_factory=dict)
    problems: dict[str, Problem] = field(default_factory=dict)

    def add(self, kind: str, policy: str, row: int, source: str, detail: str) -> None:
        """Count one faulty row of ``kind``."""
        self.problems.setdefault(kind, Problem(policy)).add(row, source, detail)

    def count_ids(self, ids: Iterable[str]) -> None:
        """Count ids that occur more than once, and rows without an id."""
        counts = Counter(ids)
        self.without_id = counts.pop("", 0)
        repeated = [identity for identity, count in counts.items() if count > 1]
        self.duplicate_ids = len(repeated)
        self.duplicate_ids_first = repeated[:FIRST]

    def as_json(self) -> dict[str, Any]:
        """The report as plain dicts, lists, strings and numbers."""
        return asdict(self)

    def refuse(self, policies: Policies, lost_at_most: float = 1.0) -> None:
        """Raise :class:`UserError` for faults whose policy is ``error``.

        Also if the other policies drop or blank more than the share ``lost_at_most`` of the rows.
        """
        self._refuse_faults(policies)
        lost = self.dropped + self.blank
        if lost > lost_at_most * self.rows:
            raise UserError(
                f"{self.name}: {lost:,} of {self.rows:,} rows would be dropped or blank, more than "
                f"data.lost_at_most={lost_at_most:g} allows:\n{self.faults()}\nFetch what is "
                "missing, or raise data.lost_at_most. Nothing was written."
            )

    def faults(self) -> str:
        """A line for each kind of fault."""
        return "\n".join(_line(kind, problem) for kind, problem in self.problems.items())

    def _refuse_faults(self, policies: Policies) -> None:
        fatal = {k: p for k, p in self.problems.items() if getattr(policies, p.policy) == "error"}
        if not fatal:
            return
        lines = [f"{self.name}: {self.rows:,} rows, of which some cannot be used:"]
        lines += [_line(kind, problem) for kind, problem in fatal.items()]
        options = sorted({problem.policy for problem in fatal.values()})
        remedies = " and ".join(f"data.{o}={'|'.join(CHOICES[o][1:])}" for o in options)
        raise UserError(
            "\n".join(lines) + f"\nMend the data, or set {remedies}. Nothing was written."
        )


def _line(kind: str, problem: Problem) -> str:
    shown = ", ".join(map(str, problem.rows)) + (", ..." if problem.count > FIRST else "")
    return (
        f"  {problem.count:,} x {kind}: rows {shown} (by source: {by_source(problem.sources)}); "
        f"the first: {inert(problem.example)}"
    )


def by_source(counts: Mapping[str, int]) -> str:
    """``ocr_vqa 1,234, gqa 2``: largest first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{inert(source) or 'unknown'} {count:,}" for source, count in ordered)
