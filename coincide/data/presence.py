"""Which of a dataset's downloads exist, without reading any file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coincide.data.download import Download

WORK = ".prepare"
"""Folder below the root: archives in progress, and marks of those being unpacked or done."""
LEAST = 0.98
"""A folder with this share of its expected files counts as complete: some sources have lost
files."""


@dataclass(frozen=True)
class DownloadState:
    """State of a download: in words; whether it is complete; whether there is any of it."""

    found: str
    whole: bool = False
    some: bool = False


def look_at_download(root: Path, item: Download) -> DownloadState:
    """The state of ``item``. Opens no file."""
    if not item.holds:
        return _look_file(root / item.to, item.bytes)
    folder = root / item.holds
    if not folder.is_dir():
        return DownloadState(f"no folder {folder}")
    count = count_files(folder)
    seen = f"{folder}, {count:,} files"
    if mark(root, item, "unfinished").is_file():
        return DownloadState(f"{seen}, unpacking broke off")
    done = mark(root, item, "done")
    least = int(done.read_text()) if done.is_file() else max(1, LEAST * item.files)
    if count < least:
        return DownloadState(f"{seen} of {item.files:,}", some=count > 0)
    return DownloadState(seen, whole=True)


def count_files(folder: Path) -> int:
    """Number of files in ``folder`` itself, without unfinished ones."""
    with os.scandir(folder) as entries:
        return sum(not entry.name.startswith(".") for entry in entries)


def _look_file(path: Path, size: int) -> DownloadState:
    if not path.is_file():
        return DownloadState(f"no file {path}")
    got = path.stat().st_size
    if size and got != size:
        return DownloadState(f"{path}, {got:,} bytes of {size:,}")
    return DownloadState(f"{path}, {got:,} bytes", whole=True)


def space(root: Path, items: Sequence[Download]) -> tuple[int, int]:
    """Bytes that fetching the missing ``items`` needs at most at a time, and bytes free.

    Pictures take about the size of their archive when unpacked; one archive at a time is kept.
    """
    missing = [item for item in items if not look_at_download(root, item).whole]
    archives = [item.size for item in missing if item.holds]
    needed = sum(item.size for item in missing) + max(archives, default=0)
    there = root.absolute()
    while not there.exists():
        there = there.parent
    begun = sum(p.stat().st_size for p in root.glob(f"{WORK}/*") if p.is_file())
    return max(0, needed - begun), shutil.disk_usage(there).free


def mark(root: Path, item: Download, what: str) -> Path:
    """The file that marks ``item`` as ``unfinished``, or as ``done`` with its number of files."""
    return root / WORK / f"{item.name}.{what}"


def gigabytes(size: int) -> str:
    """``size`` bytes in words."""
    return f"{size / 1e9:,.1f} GB"
