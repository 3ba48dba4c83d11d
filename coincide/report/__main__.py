"""``python -m coincide.report LEDGER...``: one report over the ledgers of several machines.

The same result in two ledgers counts once; a run that was made twice with different scores is
noted. With the word ``scoring=lenient`` the report shows the lenient reading of the same replies,
with ``score=likelihood`` the likelihood of the right answers, each in files of its own
(``report-lenient.html``, ``report-likelihood.html``).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from coincide.ledger.files import read_ledger
from coincide.report.build import build_report
from coincide.report.scoring import ACCURACY, STRICT, by_scoring, kind_of
from coincide.report.summary import shown_panels, summary_tables
from coincide.schema import UserError
from coincide.system.processes import available_cores
from coincide.terminal.inert import console, guard_terminal

MANY = 400
"""Results from which on panels are made in several processes; for fewer, starting them takes longer
than it saves."""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; exit status 2 when a ledger cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m coincide.report", description=__doc__)
    parser.add_argument("ledgers", type=Path, nargs="*", default=[Path("ledger")], metavar="LEDGER")
    parser.add_argument("--store", type=Path, default=Path("store"), help="samples and pictures")
    parser.add_argument("--out", type=Path, default=Path("reports"))
    parser.add_argument("--scoring", default=STRICT, help="strict (default) or lenient")
    parser.add_argument("--score", default=ACCURACY, help="accuracy (default) or likelihood")
    every = list(sys.argv[1:] if words is None else words)
    flags = [f"--{word}" if word.startswith(("scoring=", "score=")) else word for word in every]
    given = parser.parse_args(flags)
    try:
        scoring = kind_of(given.score, given.scoring)
        if missing := [str(p) for p in given.ledgers if not p.exists()]:
            raise UserError(f"No such ledger: {', '.join(missing)}; expected folders of results.")
        results = by_scoring(read_ledger(given.ledgers), scoring)
        store = given.store if given.store.is_dir() else None
        found = shown_panels(results)
        processes = available_cores() if len(results) >= MANY else 1
        paths = build_report(results, given.out, store, scoring, found, processes)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    out = console()
    for table in summary_tables(results, found):
        out.print(table)
    out.print(f"Report: {paths['html']}", highlight=False)
    return 0


if __name__ == "__main__":
    guard_terminal()
    sys.exit(main())
