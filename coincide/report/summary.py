"""The table that the terminal shows when a comparison is done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from coincide.report.compare import panels
from coincide.report.ledger import presentable
from coincide.report.tables import cells, header, lines
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
        for i, name in enumerate(header(panel, time=False)):
            table.add_column(Text(name), justify="left" if i == 0 else "right")
        for line in lines(panel):
            table.add_row(*(Text(text) for text in cells(panel, line, time=False)))
        found.append(table)
    return found
