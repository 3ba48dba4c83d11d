"""``python -m coincide.doctor`` and its like take the words of ``run.py``, which composes them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

RUN = Path(__file__).resolve().parents[2] / "run.py"


def hand_over(command: str, words: Sequence[str]) -> int:
    """Start ``run.py``, the one file that knows Hydra, with ``words`` and ``command``."""
    return subprocess.run([sys.executable, str(RUN), *words, f"command={command}"]).returncode
