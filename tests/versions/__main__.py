"""What each generator and step gives on a tiny case, as hashes beside their versions.

    python -m tests.versions             # compare with tests/assets/versions.json
    python -m tests.versions --update    # write it anew

A change of an output without a new version would leave old answers under a sound key. Hashed is
what does not depend on the CPU: texts, orders, rows, labels and pixels whole; what a model computes
in float64, rounded to 3 digits, a million million times what the order of its sums can change.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.versions.cases import CASES, digest

TABLE = Path(__file__).parents[1] / "assets" / "versions.json"


def current(name: str) -> dict[str, str]:
    """Version and hash of a case as the code is now."""
    case = CASES[name]
    return {"version": str(case.version()), "hash": digest(case.output())}


def verdict(name: str, known: dict[str, str] | None, found: dict[str, str]) -> str:
    """What is wrong and what to do; empty where the table has this version and this output."""
    if known == found:
        return ""
    update = "then write the table: python -m tests.versions --update"
    if known is None:
        return f"{name} is not in the table; {update.removeprefix('then ')}"
    if known["version"] == found["version"]:
        return (
            f"{name}: the output changed and its version did not, so stores keep the old output "
            f"under the same key. If the change is meant, raise {CASES[name].where}, {update}"
        )
    if known["hash"] == found["hash"]:
        return (
            f"{name}: the version is {found['version']} (the table has {known['version']}) and "
            "the output is the same, so everything would be computed again for nothing. Take the "
            f"version back, or, if it changed for what this case does not show, {update[5:]}"
        )
    return f"{name}: version and output changed together, as they should; {update}"


def main(words: list[str]) -> int:
    """Compare, or with ``--update`` rewrite the table."""
    known = json.loads(TABLE.read_text(encoding="utf-8")) if TABLE.is_file() else {}
    found = {name: current(name) for name in CASES}
    for name in CASES:
        if wrong := verdict(name, known.get(name), found[name]):
            print(wrong)
    if "--update" in words:
        TABLE.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        return 0
    return int(known != found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
