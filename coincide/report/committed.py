"""Results that ship with the project, shown beside the user's own until these replace them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from coincide.ledger.files import read_ledger
from coincide.ledger.result import CommittedResult, Result
from coincide.report.contents import panel_key, with_inferred_contents
from coincide.report.settings import conflicts, setting

DEMO_TABLE = Path(__file__).resolve().parents[2] / "docs" / "demo_table" / "ledger.jsonl.gz"
"""``experiment=demo_table``: ten methods and their controls, five seeds (docs/DEMO.md)."""


def with_committed(results: Sequence[Result], file: Path = DEMO_TABLE) -> list[Result]:
    """``results``, and the results of the ledger ``file`` that may be shown beside them.

    A committed result is shown if ``results`` contain its panel (same data content, target and
    suite) and no run of its row (same method, number of rows and setting). None are added without
    ``file``.
    """
    committed = read_ledger(file) if file.is_file() else []
    both = with_inferred_contents([*results, *committed])
    own, theirs = both[: len(results)], both[len(results) :]
    panels = {panel_key(result) for result in own}
    beside = [r for r in theirs if panel_key(r) in panels and not any(same_row(r, o) for o in own)]
    return [*results, *(CommittedResult(**vars(result)) for result in beside)]


def same_row(first: Result, second: Result) -> bool:
    """Whether two results differ at most in their seeds.

    A field that only one of them has is ignored: in the other's version there was no such choice.
    """
    named = ("method", "variant", "reference", "k")
    alike = all(getattr(first, name) == getattr(second, name) for name in named)
    return alike and not conflicts(setting(first), setting(second))
