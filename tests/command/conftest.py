"""``run.py`` as a user calls it: a process of its own, in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    "data.n=240",
    "data.items=12",
    "data.clusters=8",
    "health.largest_cluster=0.5",
    "train.epochs=1",
    "train.save_every=2",
    "features.shard_rows=64",
)
"""The demo shrunk: every stage for real in half a minute."""

Run = Callable[..., subprocess.CompletedProcess[str]]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "HYDRA_FULL_ERROR": "0", "COLUMNS": "200"}


def command(*words: str) -> list[str]:
    return [sys.executable, str(ROOT / "run.py"), *words]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def call(*words: str, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*words), cwd=cwd, env=environment(), capture_output=True, text=True, timeout=500
        )

    return call
