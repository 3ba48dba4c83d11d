"""The table that the terminal shows when a comparison is done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from coincide.report.compare import panels
from coincide.report.ledger import presentable
from coincide.report.tables import header, number, percent, score_cells
from coincide.schema import Result

if TYPE_CHECKING:
    from rich.table import Table


def summary_tables(results: Sequence[Result]) -> list[Table]:
    """A rich table per panel: method, budget, seeds, Rel. (%), scores. Text is never markup."""
    from rich.table import Table
    from rich.text import Text

    found = []
    for panel in panels([presentable(result) for result in results]):
        table = Table(title=Text(panel.title), title_justify="left", box=None, pad_edge=False)
        names = header(panel)[: 5 + len(panel.columns)]
        for i, name in enumerate(names):
            table.add_column(Text(name), justify="left" if i == 0 else "right")
        for row in panel.rows:
            texts = [
                row.label, percent(row.budget), f"{row.examples:,}", str(len(row.runs)),
                number(row.rel.estimate), *score_cells(panel, row),
            ]  # fmt: skip
            table.add_row(*(Text(text) for text in texts))
        found.append(table)
    return found
