"""How ``python -m coincide.doctor`` and similar commands call ``run.py`` with their words."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

RUN = Path(__file__).resolve().parents[2] / "run.py"


def hand_over(command: str, words: Sequence[str]) -> int:
    """Run ``run.py``, the only file that knows Hydra, with ``command`` and ``words``.

    Its exit status.
    """
    return subprocess.run([sys.executable, str(RUN), *words, f"command={command}"]).returncode
