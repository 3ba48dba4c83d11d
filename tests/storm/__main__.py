"""``python -m tests.storm STAGE|all|damage|full|locks``: what a kill, damage or a full disk leaves.

``STAGE --kills N`` kills at random times (the main process, a child, the group) and compares the
bytes with an undisturbed run. ``damage`` harms a store in every way of the table, ``full`` takes
the room away, ``locks`` runs two at once where file locks fail. The undisturbed run is made once,
in ``--folder``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.storm import damage, full, locks
from tests.storm.kills import HEAD, storm
from tests.storm.world import STAGES, base


def main(words: Sequence[str] | None = None) -> int:
    """The command; its status is 1 when anything did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.storm", description=__doc__)
    parser.add_argument("what", choices=[*STAGES, "all", "damage", "full", "locks"])
    parser.add_argument("--kills", type=int, default=6, help="for each stage")
    parser.add_argument("--table", type=Path, help="kept there, part by part; a storm goes on")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="then begin no more")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[], help="damages or stages by part of name")
    parser.add_argument("--cold", action="store_true", help="kill while it imports, too: slow")
    parser.add_argument("--words", nargs="*", default=[], help="e.g. features.processes=2")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "storm")
    given = parser.parse_args(words)
    folder = given.folder.absolute()
    whole = base(folder / "whole")
    if tries := {"damage": damage, "full": full, "locks": locks}.get(given.what):
        seen = tries.try_all(whole, folder, given.only)
        wrong = [name for name, how in seen if how.startswith("WRONG")]
        print(f"{len(seen) - len(wrong)} of {len(seen)} held.")
        return 1 if wrong or not seen else 0
    stages = STAGES if given.what == "all" else (given.what,)
    print(HEAD, flush=True)
    held = True
    for stage in stages:
        words = tuple(given.words)
        found = storm(
            stage, given.kills, whole, folder, given.seed, words,
            cold=given.cold, table=given.table, minutes=given.minutes,
        )  # fmt: skip
        print(found.row(), flush=True)
        held &= found.held
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
