"""``python -m coincide.store verify [--repair] [STORE ...]``: compare every byte with its hash.

``--repair`` moves damaged files to ``.quarantine`` in their store; the next run that needs the
artifact builds them again (shards of features one by one). An artifact that took training is not
moved; what to do is printed instead.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from coincide.errors import UserError
from coincide.store.check import examine, repair, unfinished
from coincide.terminal.inert import guard_terminal


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; exit status 1 when something damaged was not repaired."""
    parser = argparse.ArgumentParser(
        prog="python -m coincide.store", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("command", choices=["verify"])
    parser.add_argument("stores", type=Path, nargs="*", metavar="STORE", help="default: store")
    parser.add_argument("--repair", action="store_true", help="make it fit to be built again")
    given = parser.parse_intermixed_args(words)
    try:
        stores = given.stores or [Path("store")]
        found = [each for store in stores for each in examine(store)]
        wrong = [each for each in found if each.why]
        for each in wrong:
            print(each.why, flush=True)
        left = [each for each in wrong if not (given.repair and repair(each))]
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    size = sum(each.bytes for each in found)
    print(f"{len(found)} artifacts, {size:,} bytes read: {len(wrong)} damaged, {len(left)} left.")
    for store in stores:
        if (begun := unfinished(store)).folders:
            print(
                f"{store} holds unfinished work besides, {begun.bytes:,} bytes in {begun.folders} "
                "folders (*/.partial-*, */.by-picture-*): the commands that began it go on from "
                "it. When no run is at work and none shall go on, remove these folders."
            )
    if left and not given.repair:
        print("`python -m coincide.store verify --repair` makes them fit to be built again.")
    return 1 if left else 0


if __name__ == "__main__":
    guard_terminal()
    sys.exit(main())
