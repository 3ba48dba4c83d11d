"""A cache of file hashes, by size, times and inode: a file is hashed again only after it was
touched.

The cache of an artifact is a file of the store. It holds measured hashes; whether they are right is
decided by the manifest each time. A change of a file changes its ctime, which no program can set
back, so a cached hash cannot belong to other bytes. The hash of a file that was touched within the
second before it was hashed is not cached: the file system's clock may be too coarse.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from stat import S_ISREG

from coincide.system.files import sha256_file, write_json

FOLDER = ".checked"
"""Folder of the store that holds the cache."""
SETTLED = 1.0
"""Seconds that a file must have been untouched before its hash is cached."""
_MANY = 2**26
"""From this many bytes on, several files are hashed in parallel."""

Stamp = tuple[int, int, int, int]

_known: dict[str, tuple[Stamp, str]] = {}
"""Path -> stamp and hash of the file, in this process."""


def stamp(path: Path | str) -> Stamp | None:
    """Size, mtime and ctime (ns) and inode of a file; None if there is no regular file.

    Raises PermissionError if this user may not look.
    """
    try:
        status = os.stat(path)  # noqa: PTH116 - half the time of Path.stat, thousands of times
    except PermissionError:
        raise
    except OSError:
        return None
    if not S_ISREG(status.st_mode):
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def digests(folder: Path, names: Iterable[str]) -> dict[str, str | None]:
    """SHA-256 of the files ``names`` of the artifact in ``folder``; None for an unreadable file.

    Raises PermissionError for a file that this user may not read.
    """
    stamps = {name: stamp(folder / name) for name in names}
    stale = [n for n, s in stamps.items() if s is not None and not _is_known(folder / n, s)]
    if stale:
        _recall(folder)
        stale = [n for n in stale if not _is_known(folder / n, stamps[n])]
    began = time.time_ns()
    fresh = dict(zip(stale, _measure(folder, stale, stamps), strict=True))
    if _remember(folder, fresh, stamps, began):
        _store(folder)
    return {
        name: None if s is None else fresh[name] if name in fresh else _known[str(folder / name)][1]
        for name, s in stamps.items()
    }


def remember(folder: Path, measured: Mapping[str, str], began: int) -> None:
    """Cache the hashes ``measured`` (name -> hash) of files now in ``folder``.

    ``began`` is the time (ns) at which measuring began, perhaps in another folder.
    """
    if _remember(folder, measured, {name: stamp(folder / name) for name in measured}, began):
        _store(folder)


def forget(folder: Path) -> None:
    """Drop the cached hashes of the artifact in ``folder``."""
    for path in [path for path in _known if path.startswith(f"{folder}{os.sep}")]:
        del _known[path]
    with suppress(OSError):
        _memory(folder).unlink()


def _is_known(path: Path, seen: Stamp | None) -> bool:
    found = _known.get(str(path))
    return found is not None and found[0] == seen


def _measure(
    folder: Path, names: Sequence[str], stamps: dict[str, Stamp | None]
) -> list[str | None]:
    def one(name: str) -> str | None:
        try:
            return sha256_file(folder / name)
        except PermissionError:
            raise
        except OSError:
            return None

    if len(names) < 2 or sum((stamps[n] or (0,))[0] for n in names) < _MANY:
        return [one(name) for name in names]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(one, names))


def _remember(
    folder: Path,
    measured: Mapping[str, str | None],
    stamps: Mapping[str, Stamp | None],
    began: int,
) -> bool:
    """Cache the hashes of files that were untouched before and while they were hashed.

    Returns whether any was cached.
    """
    kept = False
    settled = began - int(SETTLED * 1e9)
    for name, digest in measured.items():
        seen, path = stamps[name], folder / name
        if digest is None or seen is None or max(seen[1], seen[2]) > settled:
            continue
        if stamp(path) == seen:
            _known[str(path)] = (seen, digest)
            kept = True
    return kept


def _memory(folder: Path) -> Path:
    return folder.parent.parent / FOLDER / f"{folder.parent.name}-{folder.name}.json"


def _recall(folder: Path) -> None:
    """Read the hashes that earlier processes cached; none if that file is damaged."""
    with suppress(OSError, ValueError, TypeError, AttributeError):
        for name, entry in json.loads(_memory(folder).read_text(encoding="utf-8")).items():
            size, mtime, ctime, inode, digest = entry
            _known[str(folder / name)] = ((size, mtime, ctime, inode), str(digest))


def _store(folder: Path) -> None:
    memory = _memory(folder)
    if not memory.parent.is_dir():
        return  # not in a store, or in one that is only read
    prefix = f"{folder}{os.sep}"
    found = {path[len(prefix) :]: e for path, e in _known.items() if path.startswith(prefix)}
    with suppress(OSError):  # a store that is full or read-only costs time, not the answer
        write_json(memory, {name: [*seen, digest] for name, (seen, digest) in found.items()})
