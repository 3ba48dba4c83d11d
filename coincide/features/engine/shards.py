"""Arrays in shards on disk: ``values-00000.npy``, ..., each with a ``valid-00000.npy``.

Shard i holds the rows ``[i * shard_rows, (i + 1) * shard_rows)`` of the dataset, so a row is found
by its index alone. Shards are memory-mapped when read.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence, Set
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from coincide.store import note_done
from coincide.system.files import write_array


def write_shard(folder: Path, index: int, values: np.ndarray, valid: np.ndarray) -> None:
    """Write shard ``index``: ``values`` [n, D], ``valid`` bool [n].

    The values' file is written last.
    """
    _save(folder / f"valid-{index:05d}.npy", valid)
    _save(folder / f"values-{index:05d}.npy", values)


def has_shard(folder: Path, index: int, listed: Set[str] | None = None) -> bool:
    """Whether shard ``index`` is complete, from this attempt or an earlier, killed one.

    ``listed``: the names in ``folder``, to avoid listing it again for every shard.
    """
    names = (f"values-{index:05d}.npy", f"valid-{index:05d}.npy")
    if listed is not None:
        return all(name in listed for name in names)
    return all((folder / name).is_file() for name in names)


def rows_of(path: Path) -> int | None:
    """Rows of the array in a shard's file, by its header; None if it is not there or damaged."""
    try:
        return len(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, TypeError, EOFError):
        return None


def remove_misfits(folder: Path, rows: int, shard_rows: int) -> list[str]:
    """Remove files of shards whose size is not that of a pass over ``rows`` rows in shards of
    ``shard_rows``: their numbers stand for other rows. Returns their names.
    """
    removed = []
    for path in sorted(folder.glob("val*-[0-9]*.npy")):
        first = int(path.stem.rpartition("-")[2]) * shard_rows
        expected = min(first + shard_rows, rows) - first
        if expected <= 0 or rows_of(path) != expected:
            path.unlink()
            removed.append(path.name)
    return removed


def _save(path: Path, array: np.ndarray) -> None:
    write_array(path, array)
    note_done(path)


class ShardedArray:
    """An array [N, D] in shards; indexing reads slices and lists of rows from memory maps.

    With ``rows`` (int64 [n]) it is a view of these rows, in that order: [n, D].
    """

    def __init__(self, folder: Path, rows: np.ndarray | None = None) -> None:
        self.folder = folder
        self._files = sorted(folder.glob("values-*.npy"))
        lengths = [self._map(i).shape[0] for i in range(len(self._files))]
        self._starts = [0, *np.cumsum(lengths).tolist()]
        self._rows = rows
        first = self._map(0)
        self.dtype = first.dtype
        total = self._starts[-1] if rows is None else len(rows)
        self.shape = (total, *first.shape[1:])
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    @lru_cache(maxsize=64)  # noqa: B019 - a few arrays live as long as the process
    def _map(self, index: int) -> np.ndarray:
        return np.load(self._files[index], mmap_mode="r", allow_pickle=False)

    def release(self) -> None:
        """Give the resident pages of the memory maps back to the operating system."""
        self._map.cache_clear()

    def take(self, rows: np.ndarray) -> ShardedArray:
        """A view of the rows ``rows`` (int64 [n]), in that order."""
        return ShardedArray(self.folder, rows if self._rows is None else self._rows[rows])

    def __getitem__(self, index: Any) -> np.ndarray:
        """``x[i:j]``, ``x[rows]``, ``x[i]`` or, as numpy has it, ``x[rows, columns]``: an array in
        memory.
        """
        if isinstance(index, tuple):
            found, columns = self[index[0]], index[1:]
            if isinstance(index[0], slice):
                return found[(slice(None), *columns)]
            return found[columns if found.ndim < self.ndim else (np.arange(len(found)), *columns)]
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if self._rows is None and step == 1:
                return self._slice(start, max(start, stop))
            index = np.arange(start, stop, step)
        if np.isscalar(index) or isinstance(index, np.integer):
            return self[np.asarray([index])][0]
        index = np.asarray(index)
        if index.dtype == bool:
            index = np.flatnonzero(index)
        index = np.where(index < 0, index + len(self), index)
        return self._gather(index if self._rows is None else self._rows[index])

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        whole = self[0 : len(self)]
        return whole if dtype is None else whole.astype(dtype)

    def _slice(self, start: int, stop: int) -> np.ndarray:
        parts: list[np.ndarray] = []
        while start < stop:
            shard = bisect.bisect_right(self._starts, start) - 1
            end = min(stop, self._starts[shard + 1])
            offset = self._starts[shard]
            parts.append(self._map(shard)[start - offset : end - offset])
            start = end
        if not parts:
            return np.empty((0, *self.shape[1:]), self.dtype)
        return np.array(parts[0]) if len(parts) == 1 else np.concatenate(parts)

    def _gather(self, rows: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        shards = np.searchsorted(self._starts, rows, side="right") - 1
        for shard in np.unique(shards):
            here = np.flatnonzero(shards == shard)
            out[here] = self._map(int(shard))[rows[here] - self._starts[shard]]
        return out


def read_valid(folder: Path) -> np.ndarray:
    """bool [N]: which rows of the sharded artifact in ``folder`` hold a usable value."""
    files: Sequence[Path] = sorted(folder.glob("valid-*.npy"))
    return np.concatenate([np.load(file, allow_pickle=False) for file in files])


def usable_rows(folders: Sequence[Path]) -> np.ndarray:
    """bool [N]: rows that hold a usable value in all sharded artifacts in ``folders``."""
    return np.logical_and.reduce([read_valid(folder) for folder in folders])
