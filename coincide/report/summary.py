"""The tables that the terminal shows after a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from coincide.ledger.files import presentable
from coincide.ledger.result import Result
from coincide.report.compare import panels
from coincide.report.tables import lines, terminal_cells
from coincide.terminal.redact import values_to_hide

if TYPE_CHECKING:
    from rich.table import Table

    from coincide.report.records import Panel


def shown_panels(results: Sequence[Result]) -> list[Panel]:
    """The panels of ``results`` without secrets, as every report shows them."""
    hidden = values_to_hide()
    return panels([presentable(result, hidden) for result in results])


def summary_tables(results: Sequence[Result], found: Sequence[Panel] | None = None) -> list[Table]:
    """A rich table per panel: method, budget, seeds, Rel. (%), scores.

    ``found``: the :func:`shown_panels` of ``results``, if they are made already. Texts are not
    parsed as markup.
    """
    from rich.table import Table
    from rich.text import Text

    tables = []
    for panel in shown_panels(results) if found is None else found:
        table = Table(title=Text(panel.title), title_justify="left", box=None, pad_edge=False)
        shown = [terminal_cells(panel, line) for line in lines(panel)]
        for i, name in enumerate(shown[0]):
            table.add_column(Text(name), justify="left" if i == 0 else "right")
        for row in shown:
            table.add_row(*map(Text, row.values()))
        tables.append(table)
    return tables
