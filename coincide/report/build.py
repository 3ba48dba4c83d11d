"""The report stage: ledger -> report.md, .csv, .tex, .json and one self-contained report.html."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from coincide.report import tables
from coincide.report.compare import panels
from coincide.report.ledger import presentable
from coincide.report.page import page
from coincide.schema import Result
from coincide.store import write_atomic


def build_report(results: Sequence[Result], folder: Path) -> dict[str, Path]:
    """Write the report of ``results`` into ``folder``, file ending -> path.

    Each file is replaced whole, and the same results, in any order, give the same bytes.
    """
    found = panels([presentable(result) for result in results])
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "md": tables.markdown(found),
        "csv": tables.comma_separated(found),
        "tex": tables.latex(found),
        "json": json.dumps(tables.as_json(found), indent=1, ensure_ascii=False) + "\n",
        "html": page(found),
    }
    paths = {ending: folder / f"report.{ending}" for ending in texts}
    for ending, text in texts.items():
        write_atomic(paths[ending], lambda path, t=text: _put(path, t))  # type: ignore[misc]
    return paths


def _put(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
