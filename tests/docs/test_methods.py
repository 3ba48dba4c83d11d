"""docs/METHODS.md is what `make docs` writes, and every method file says what it owes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import methods_doc  # noqa: E402

JUDGED = [path.stem for path in methods_doc._files() if path.stem not in ("full", "from_file")]


def test_the_page_is_up_to_date() -> None:
    written = (ROOT / "docs" / "METHODS.md").read_text(encoding="utf-8")
    assert written == methods_doc.page(), "run: python scripts/methods_doc.py"


@pytest.mark.parametrize("name", JUDGED)
def test_every_file_says_what_it_owes(name: str) -> None:
    method = methods_doc._method(name)
    openings = [paragraph.split()[0].rstrip(":,") for paragraph in methods_doc._said(method)]
    owed = {"Published"} if name == "random" else {"Published", "Rows", "Cost"}
    assert owed <= set(openings)
