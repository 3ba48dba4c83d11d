"""Settings of ``conf/logger``: whether, where and how much is written to wandb."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from coincide.schema import UserError
from coincide.system.files import digest_of

MODES = ("off", "online", "offline")
LENT = "lent"
"""Folder beside the offline runs, with links to files of the store that they upload."""
_BESIDE = re.compile(r"[+~]*(?:logger|launcher|hydra|paths|stages|dry_run|command|sweep)\b")


@dataclass(frozen=True)
class Logger:
    """``logger=none | wandb | wandb_offline``. None of the fields changes a result."""

    mode: str = "off"
    project: str = "coincide"
    entity: str | None = None
    """User or team at wandb; None: the account's default."""
    group: str | None = None
    """Name of the sweep in wandb; None: derived from the words of the command line."""
    dir: str = "."
    """Folder that contains ``wandb/``: offline runs, and marks of what was written."""
    timeout: float = 120.0
    """Seconds for writing one run, plus time for its artifacts at 10 MB a second."""
    artifact_mb: int = 2048
    """Largest artifact; of a larger one only the files that fit are kept, smallest first."""
    thumbnails: int = 64
    """Number of clusters shown with pictures, those with most picks."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError(f"logger.mode={self.mode!r}; the choices are {', '.join(MODES)}.")
        if not re.fullmatch(r"[\w.-]{1,128}", self.project):
            raise UserError(
                f"logger.project={self.project!r}; expected 1 to 128 letters, digits, '_', '-', '.'"
            )
        if self.group is not None and not 0 < len(self.group) <= 128:
            raise UserError(f"logger.group={self.group!r}; expected 1 to 128 characters.")
        if not self.timeout > 0 or self.artifact_mb < 0 or self.thumbnails < 0:
            raise UserError(
                f"logger.timeout={self.timeout} must be > 0, logger.artifact_mb={self.artifact_mb} "
                f"and logger.thumbnails={self.thumbnails} >= 0."
            )


def group_of(words: Iterable[str]) -> str:
    """Name of a sweep: the same for the same words in any order, at any time and place.

    Words about where and how to run are ignored.
    """
    telling = sorted(word for word in words if not is_launch_word(word))
    return f"sweep-{digest_of(telling)[:8]}"


def is_launch_word(word: str) -> bool:
    """Whether a word of the command line only says where and how to run."""
    return word.startswith("-") or _BESIDE.match(word) is not None
