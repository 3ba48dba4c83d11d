"""``python -m tests.families [NAME ...]``: every stage of tiny families against plain transformers.

Without names all families are tried and ``docs/MODELS.md`` is written.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from pathlib import Path

PAGE = Path("docs/MODELS.md")


def main(names: list[str]) -> None:
    """Print the outcome of each stage, a family at a time."""
    warnings.filterwarnings("ignore")
    import torch
    from transformers.utils import logging

    from tests.families.made import BUILDERS, make, rows
    from tests.families.page import page
    from tests.families.stages import Stages, outcome

    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    found: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as place:
        (pictures := Path(place) / "rows").mkdir()
        dataset = rows(pictures)
        for name in names or list(BUILDERS):
            folder = Path(place) / name
            built = outcome(lambda name=name, folder=folder: str(make(name, folder)))
            if built.startswith("ERROR"):
                found[name] = {"built": built}
            else:
                found[name] = Stages(folder, dataset).run()
            print(name, json.dumps(found[name], indent=1, ensure_ascii=False), flush=True)
    if not names:
        PAGE.write_text(page(found), encoding="utf-8")
        print(f"wrote {PAGE}")


if __name__ == "__main__":
    main(sys.argv[1:])
