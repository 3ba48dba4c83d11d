"""The README says the truth and stays short; the map has every file; the example method runs."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from coincide.schema import Example, Turn

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="the list of files comes from git")
def test_the_map_has_every_file() -> None:
    sys.path.insert(0, str(ROOT / "scripts"))
    from tree import page

    written = (ROOT / "docs" / "MAP.md").read_text(encoding="utf-8")
    assert written == page(), "docs/MAP.md is not what `make docs` writes"


def test_the_readme_is_read_in_minutes() -> None:
    assert len(README.splitlines()) <= 200


def test_the_example_method_selects() -> None:
    code = re.search(r"```python\n(# baselines/longest.*?)```", README, re.S)
    assert code
    space: dict[str, object] = {"__name__": "longest"}
    sys.modules["longest"] = SimpleNamespace(__dict__=space)  # type: ignore[assignment]
    exec(compile(code[1], "longest.py", "exec"), space)
    turns = [(Turn("human", "?"), Turn("gpt", "x" * n)) for n in (3, 9, 1, 9)]
    pool = SimpleNamespace(
        examples=[Example(i, str(i), (), t, "s") for i, t in enumerate(turns)],
        usable=np.array([True, True, True, False]),
    )
    method = space["Longest"]()  # type: ignore[operator]
    assert method.select(pool, 2, 0).rows.tolist() == [1, 0]
