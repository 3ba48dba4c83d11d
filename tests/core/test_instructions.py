"""The same rows on every processor: all methods under three instruction sets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.instructions import SETS, variables

ROOT = Path(__file__).parents[2]


def answers(name: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.instructions"],
        cwd=ROOT, env={**os.environ, **variables(name), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, check=True, text=True,
    )  # fmt: skip
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.slow
@pytest.mark.fresh
def test_all_methods_give_the_same_rows_under_three_instruction_sets() -> None:
    """On rows of which every one is there twice with scores of one digit, and on others."""
    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(SETS, pool.map(answers, SETS), strict=True))
    said = [each["said"] for each in found.values()]
    assert len({str(one) for one in said}) == len(said), "the variables did not reach the libraries"
    widest = found["widest"]["rows"]
    assert len(widest) > 150
    for name, each in found.items():
        other = [what for what, rows in widest.items() if each["rows"][what] != rows]
        assert not other, f"not the same rows under {name}: {other}"
