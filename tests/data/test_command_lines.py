"""``python -m coincide.data.prepare`` and ``verify`` with the words of a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.mini import llava665k as mini

ROOT = Path(__file__).resolve().parents[2]
TINY = "reference=tiny clip=tiny target=tiny train=demo eval=demo".split()


def run(folder: Path, module: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"coincide.data.{module}", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder / "cache")},
        capture_output=True,
        text=True,
    )


def test_verify_of_the_miniature(tmp_path: Path) -> None:
    mini.make(tmp_path / "data" / "llava")
    found = run(tmp_path, "verify", "data=llava", "data.expect=any", *TINY)
    assert found.returncode == 0, found.stderr
    report = json.loads((tmp_path / "reports" / "verify_llava.json").read_text())
    assert report["sources"].keys() == mini.BLOCKS.keys()
    assert "4 rows dropped" in found.stdout


def test_a_fork_is_refused_by_the_command_line_too(tmp_path: Path) -> None:
    mini.make(tmp_path / "data" / "llava")
    found = run(tmp_path, "verify", "data=llava", *TINY)
    assert found.returncode == 2
    assert "is not the published LLaVA-665K" in found.stderr
    assert "Traceback" not in found.stderr


def test_prepare_of_the_demo(tmp_path: Path) -> None:
    found = run(tmp_path, "prepare", "data=demo")
    assert found.returncode == 0, found.stderr
    assert "data=demo names no downloads" in found.stdout
