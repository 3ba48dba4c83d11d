"""The state of many files, as arrays: which exist, their sizes, times and hashes.

One look-up a file, relative to its opened folder, and no object for a file stays in memory.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import compute

from coincide.data.blocks import TEXT, as_text
from coincide.data.images import redrawn, unsafe_reason
from coincide.data.listing import SHOWN, leaves, refuse_outside
from coincide.terminal.progress import SOON, bar

FOLDERS = 256
"""Folders that are kept open."""
BLOCK = 8_192
"""Names that are Python objects at a time."""
ABSENT = -1
"""The size of a file that does not exist."""
UNKNOWN = 2
"""Of ``redrawn``: it was not looked at."""


@dataclass
class States:
    """The files ``names``, an Arrow array of bytes [n], distinct."""

    names: pa.Array
    size: np.ndarray
    """int64 [n], ``ABSENT`` for no file."""
    mtime: np.ndarray
    """int64 [n], nanoseconds."""
    sha256: np.ndarray
    """uint8 [n, 32]; zeros where it is not known."""
    redrawn: np.ndarray
    """uint8 [n]: whether earlier versions made other RGB pixels of it, 0, 1 or ``UNKNOWN``."""

    @classmethod
    def unknown(cls, names: pa.Array) -> States:
        """``names`` of which nothing is known."""
        n = len(names)
        size, mtime = np.full(n, ABSENT, np.int64), np.zeros(n, np.int64)
        return cls(names, size, mtime, np.zeros((n, 32), np.uint8), np.full(n, UNKNOWN, np.uint8))

    def same(self, other: States) -> bool:
        """Whether both name the same files with the same sizes and times."""
        return (
            self.names.equals(other.names)
            and np.array_equal(self.size, other.size)
            and np.array_equal(self.mtime, other.mtime)
        )

    def take_hashes(self, known: States) -> None:
        """Take over the hashes of files that have in ``known`` the same name, size and time."""
        there = compute.index_in(self.names, value_set=known.names).fill_null(ABSENT).to_numpy()
        mine = np.flatnonzero(there >= 0)
        its = there[mine]
        same = (self.size[mine] == known.size[its]) & (self.mtime[mine] == known.mtime[its])
        same &= self.size[mine] != ABSENT
        mine, its = mine[same], its[same]
        self.sha256[mine], self.redrawn[mine] = known.sha256[its], known.redrawn[its]

    def digest(self) -> str:
        """SHA-256 over (name, size, SHA-256) of the files that exist, by name."""
        digest = hashlib.sha256()
        order = compute.sort_indices(self.names).to_numpy()
        order = order[self.size[order] != ABSENT]
        for block in _blocks(order):
            names = self.names.take(pa.array(block)).to_pylist()
            entries = zip(names, self.size[block].tolist(), self.sha256[block], strict=True)
            said = (b"%b\0%d\0%b\n" % (n, s, h.tobytes().hex().encode()) for n, s, h in entries)
            digest.update(b"".join(said))
        return digest.hexdigest()

    def missing(self, names: pa.Array) -> np.ndarray:
        """bool, for each of ``names``: whether it is none of the files that exist."""
        there = self.names.filter(pa.array(self.size != ABSENT))
        found: np.ndarray = compute.is_in(names, value_set=there).to_numpy(zero_copy_only=False)
        return ~found


def look(root: Path, names: pa.Array, *, checked: bool = False) -> States:
    """The files ``names`` below ``root`` with size and time, not yet hashed; ``checked``: the texts
    of the names are known to be safe.

    Raises UnsafePath, naming the first ten, if any is absolute, contains ``..``, or leads
    outside the root through a symbolic link.
    """
    found, folders, place = States.unknown(names), _Folders(root, checked), 0
    with (
        folders,
        bar("look for images", total=len(names), unit="image", delay=SOON) as progress,
    ):
        for block in _blocks(names):
            for name in map(as_text, block.to_pylist()):
                status = folders.status(name)
                if status is not None:
                    found.size[place], found.mtime[place] = status.st_size, status.st_mtime_ns
                place += 1
            progress.update(len(block))
    folders.refuse()
    return found


@dataclass
class _Folders:
    """Open folders below ``root``, and the paths that lead outside of it."""

    root: Path
    checked: bool
    opened: dict[str, int | None] = field(default_factory=dict)
    """Folder -> its descriptor; None: there is none, or it is a link that leads outside."""
    outside: set[str] = field(default_factory=set)
    first: list[str] = field(default_factory=list)
    refused: int = 0

    def __enter__(self) -> _Folders:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def status(self, name: str) -> os.stat_result | None:
        """Of the file ``name``, links followed; None if there is none."""
        if not self.checked and (why := unsafe_reason(name)):
            self._refuse(name, why)
            return None
        folder, _, base = name.rpartition("/")
        if folder not in self.opened:
            self._open(folder)
        if folder in self.outside:
            self._refuse(name, "a symbolic link leads out of it")
            return None
        descriptor = self.opened[folder]
        if descriptor is None:
            return None
        try:
            status = os.stat(base, dir_fd=descriptor, follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                if leaves(self.root, name):
                    self._refuse(name, "a symbolic link leads out of it")
                    return None
                status = os.stat(base, dir_fd=descriptor)
        except (OSError, ValueError):
            return None
        return status if stat.S_ISREG(status.st_mode) else None

    def _open(self, folder: str) -> None:
        if len(self.opened) >= FOLDERS:
            self._close()
        self.opened[folder] = None
        with suppress(OSError, ValueError):
            self.opened[folder] = os.open(self.root / folder, os.O_RDONLY | os.O_DIRECTORY)
        if self.opened[folder] is not None and folder and leaves(self.root, folder):
            self.outside.add(folder)

    def _close(self) -> None:
        for descriptor in self.opened.values():
            if descriptor is not None:
                os.close(descriptor)
        self.opened.clear()

    def _refuse(self, name: str, why: str) -> None:
        self.refused += 1
        if len(self.first) < SHOWN:
            self.first.append(f"{name!r}: {why}")

    def refuse(self) -> None:
        """Raise UnsafePath if a path leads outside."""
        refuse_outside(self.root, self.first, self.refused)


def hash_files(root: Path, states: States, sha256: Callable[[Path], str]) -> None:
    """Look at the files of ``states`` that were not looked at, and hash those without a hash."""
    stale = np.flatnonzero((states.size != ABSENT) & (states.redrawn == UNKNOWN))
    if not len(stale):
        return

    def measured(name: str, known: np.ndarray) -> tuple[np.ndarray, bool]:
        if not known.any():
            known = np.frombuffer(bytes.fromhex(sha256(root / name)), np.uint8)
        return known, redrawn(root / name)

    with (
        bar("hash images", total=len(stale), unit="image") as progress,
        ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool,
    ):
        for block in _blocks(stale):
            names = map(as_text, states.names.take(pa.array(block)).to_pylist())
            found = pool.map(measured, names, states.sha256[block])
            for place, (digest, other) in zip(block, found, strict=True):
                states.sha256[place], states.redrawn[place] = digest, other
                progress.update(1)


def _blocks(values: Any) -> Iterator[Any]:
    """``values`` in parts of at most ``BLOCK``."""
    return (values[i : i + BLOCK] for i in range(0, len(values), BLOCK))


# --- as a file --------------------------------------------------------------------------------


SCHEMA = pa.schema(
    {
        "name": TEXT,
        "size": pa.int64(),
        "mtime": pa.int64(),
        "sha256": pa.binary(32),
        "redrawn": pa.uint8(),
    }
)


def as_table(states: States) -> pa.Table:
    """``states`` as columns, to be written."""
    columns = {
        "name": states.names,
        "size": states.size,
        "mtime": states.mtime,
        "sha256": pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(32), len(states.names), [None, pa.py_buffer(states.sha256)]
        ),
        "redrawn": states.redrawn,
    }
    return pa.table(columns, schema=SCHEMA)


def of_table(table: pa.Table) -> States:
    """What :func:`as_table` was given. Raises ValueError or KeyError for another."""
    kinds = {"size": np.int64, "mtime": np.int64, "sha256": np.uint8, "redrawn": np.uint8}
    if not table.schema.equals(SCHEMA):
        raise ValueError("not a table of states")
    parts = {name: _one(table.column(name)) for name in ("name", *kinds)}
    # off the buffers: to_numpy imports pandas
    size, mtime, digests, other = (
        np.array(np.frombuffer(parts[name].buffers()[1] or b"", kind))
        for name, kind in kinds.items()
    )
    n = len(table)
    return States(parts["name"], size[:n], mtime[:n], digests[: 32 * n].reshape(-1, 32), other[:n])


def _one(column: pa.ChunkedArray) -> pa.Array:
    found = column.combine_chunks()
    return found.chunk(0) if isinstance(found, pa.ChunkedArray) else found
