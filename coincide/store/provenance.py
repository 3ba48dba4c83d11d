"""What a result was computed with: library versions, commit, hardware. Recorded, never in a key."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch", "transformers", "peft", "deepspeed", "accelerate", "lmms_eval", "numpy",
    "scikit-learn", "hydra-core", "omegaconf", "wandb", "pillow", "tokenizers",
)  # fmt: skip
FROZEN_COMMIT = ".commit"
"""File in a copy of the code (``launch.snapshot``) with the result of :func:`commit` at its
origin."""


@cache
def versions() -> dict[str, str]:
    """Installed versions of the packages that can change a result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@cache
def commit() -> str:
    """Commit of this project, with ``+dirty`` if files differ from it; empty outside git."""
    root = Path(__file__).resolve().parents[2]
    if (root / FROZEN_COMMIT).is_file():
        return (root / FROZEN_COMMIT).read_text(encoding="utf-8").strip()
    try:
        head = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty=+dirty", "--abbrev=12"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return head.stdout.strip()


@cache
def hardware() -> dict[str, Any]:
    """Processor and, if torch is loaded already, the GPUs; never imports torch itself."""
    import sys

    facts: dict[str, Any] = {"machine": platform.machine(), "cores": os.cpu_count()}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        facts["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return facts


def environment() -> dict[str, Any]:
    """Versions, commit and hardware together, as manifests record them."""
    return {"versions": versions(), "commit": commit(), "hardware": hardware()}
