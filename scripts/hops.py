"""``python scripts/hops.py [CHECKOUT]``: the calls from ``budget=0.2`` to a number of rows.

Runs the select stage of a small demo in a temporary folder, and prints the functions of the project
that are on the stack each time that the budget becomes a number of rows.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
import tempfile
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORDS = ["data.n=200", "data.items=6", "budget=0.2", "method=random", "stages=[select]"]
PLACES = ("coincide.selection.budget", "coincide.budget")
"""Where ``count`` is, and where it was."""


def stacks_of(checkout: Path, folder: str) -> list[list[traceback.FrameSummary]]:
    """The project's part of the stack at each call of ``count``, from ``main`` on."""
    sys.path.insert(0, str(checkout))
    place = next(p for p in PLACES if (checkout / f"{p.replace('.', '/')}.py").is_file())
    module, found = importlib.import_module(place), []
    count = module.count

    def counted(*arguments: object) -> int:
        stack = traceback.extract_stack()[:-1]
        found.append([f for f in stack if f.filename.startswith(str(checkout))])
        return int(count(*arguments))

    module.count = counted
    os.chdir(folder)
    sys.argv = ["run.py", *WORDS]
    with contextlib.redirect_stdout(io.StringIO()):
        importlib.import_module("run").main()
    return found


def main(checkout: Path) -> None:
    """Print them."""
    with tempfile.TemporaryDirectory() as folder:
        for stack in stacks_of(checkout, folder):
            own = [f for f in stack if Path(f.filename) != Path(__file__).resolve()]
            files = {frame.filename for frame in own}
            print(f"{len(own)} calls over {len(files)} files")
            for frame in own:
                print(f"  {Path(frame.filename).relative_to(checkout)} {frame.name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT)
