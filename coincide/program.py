"""``python -m coincide.doctor`` and its like take the words of ``run.py``, which composes them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

RUN = Path(__file__).resolve().parent.parent / "run.py"


def hand_over(command: str) -> int:
    """Start ``run.py``, the one file that knows Hydra, with this command line and ``command``."""
    return subprocess.run(
        [sys.executable, str(RUN), *sys.argv[1:], f"command={command}"]
    ).returncode
