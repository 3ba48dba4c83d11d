"""Which of many image paths exist, with one listing per folder instead of one look-up per file."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from coincide.data.cells import cell_of, file_of, has_cell
from coincide.data.images import UnsafePath, safe_path, unsafe_reason
from coincide.terminal.progress import SOON, bar

SHOWN = 10
"""Paths that an error lists."""


def missing_files(root: Path, names: Iterable[str]) -> set[str]:
    """Those of ``names`` that are not files below ``root``, nor cells of shards below it.

    Raises :class:`UnsafePath`, naming the first ten, if any is absolute, contains ``..``, or leads
    outside the root through a symbolic link.
    """
    names = list(names)
    missing: set[str] = set()
    for wanted, entries in _folders(root, dict.fromkeys(map(file_of, names))):
        missing.update(
            n for base, n in wanted if base not in entries or not entries[base].is_file()
        )
    return {name for name in names if file_of(name) in missing or _no_cell(root, name)}


def _no_cell(root: Path, name: str) -> bool:
    cell = cell_of(name)
    return cell is not None and not has_cell(root / cell.shard, cell)


def _folders(
    root: Path, names: Iterable[str]
) -> Iterator[tuple[list[tuple[str, str]], dict[str, os.DirEntry[str]]]]:
    """Per folder: pairs (base name, name), and the directory entries by base name."""
    by_folder: dict[str, list[tuple[str, str]]] = defaultdict(list)
    refused = []
    for name in names:
        why = unsafe_reason(name)
        if why:
            refused.append(f"{name!r}: {why}")
            continue
        folder, base = os.path.split(name)
        by_folder[folder].append((base, name))
    for folder in _shown(by_folder):
        entries = _entries(root / folder)
        linked = bool(entries) and folder != "" and leaves(root, folder)
        for base, name in by_folder[folder]:
            entry = entries.get(base)
            if linked or (entry is not None and entry.is_symlink() and leaves(root, name)):
                refused.append(f"{name!r}: a symbolic link leads out of it")
        if not refused:
            yield by_folder[folder], entries
    refuse_outside(root, refused, len(refused))


def refuse_outside(root: Path, first: Sequence[str], count: int) -> None:
    """Raise :class:`UnsafePath` for ``count`` paths that lead out of ``root``, if there are any."""
    if count:
        shown = "\n  ".join(first[:SHOWN])
        raise UnsafePath(
            f"{count:,} image paths leave the image root {root}, the first:\n  {shown}\n"
            "Paths must be relative and stay below the root: set it to the folder in which the "
            "images truly lie, or copy or bind-mount them below it."
        )


def _shown(by_folder: Mapping[str, Sequence[object]]) -> Iterator[str]:
    """The folders in order, behind a progress bar of the images that are looked for in them."""
    total = sum(map(len, by_folder.values()))
    with bar("look for images", total=total, unit="image", delay=SOON) as progress:
        for folder in sorted(by_folder):
            yield folder
            progress.update(len(by_folder[folder]))


def leaves(root: Path, name: str) -> bool:
    """Whether a symbolic link leads from ``name`` out of ``root``."""
    try:
        safe_path(root, name)
    except UnsafePath:
        return True
    return False


def _entries(folder: Path) -> dict[str, os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return {entry.name: entry for entry in found}
    except (FileNotFoundError, NotADirectoryError):
        return {}
