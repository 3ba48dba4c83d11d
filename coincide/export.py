"""``python -m coincide.export SUBSET --as FORMAT --out FILE``: a subset for another trainer.

SUBSET is a subset artifact or a result of the ledger. Formats:

- ``llava``: the rows as the annotation file has them (LLaVA json)
- ``sharegpt``: the same conversations with ``images`` as a list, for text-only rows as well
- ``messages``: OpenAI roles, ``{"messages": [...], "images": [...]}``
- ``ids``: the rows' ids, a JSON list; not unique in LLaVA-665K
- ``npy``: sorted row indices int64 [k] of the annotation file, as the published code indexes it
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from coincide.data.subset import FORMATS, export_subset
from coincide.report.evidence import Shelf
from coincide.report.ledger import read_result
from coincide.schema import UserError
from coincide.store import check_path


def subset_folder(path: Path, store: Path) -> Path:
    """The subset artifact that ``path`` is, or that a result of the ledger names."""
    if path.is_dir():
        return path
    if path.suffix != ".json" or not path.is_file():
        raise UserError(
            f"{path}: expected a subset artifact (a folder of {store}/subset) or a result of the "
            "ledger (.json); there is no such file."
        )
    found = Shelf(store).subset(read_result(path))
    if found is None:
        raise UserError(
            f"The subset of {path} is not in the store {store}. Name its store by --store, or run "
            "the command of the result up to select."
        )
    return found


def main(words: Sequence[str] | None = None) -> int:
    """The command; its status is 2 when there is nothing to export."""
    parser = argparse.ArgumentParser(
        prog="python -m coincide.export", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("subset", type=Path, metavar="SUBSET")
    parser.add_argument("--as", dest="form", choices=FORMATS, required=True)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--store", type=Path, default=Path("store"), help="where the artifacts are")
    given = parser.parse_args(words)
    try:
        folder = subset_folder(given.subset, given.store)
        for name in ("rows.npy", "ids.json", "subset.json", "messages.json"):
            check_path(folder / name)
        count = export_subset(folder, given.form, given.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{count:,} examples as {given.form}: {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
