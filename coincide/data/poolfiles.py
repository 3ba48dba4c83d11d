"""The shards of a pool: which they are, their hashes, and where their pictures lie.

Every byte is hashed once, and so is every picture, so that rows that show the same picture name the
same one. What was found of a shard is cached by its size and modification time in the user's cache
folder, as for other datasets (:mod:`coincide.data.digest`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coincide.data.layout import Layout, layout_of, pictures_in
from coincide.data.shards import BROKEN, NOTES, READ, SPLITS, UNREAD, refuse_parts, some
from coincide.schema import UserError
from coincide.system.files import read_cache, sha256_file, write_array, write_json
from coincide.terminal.progress import bar

PLACE = np.dtype([("row", "<u4"), ("column", "u1"), ("index", "<u2"), ("digest", "S16")])
LOOK = 1
"""Version of what is cached of a shard."""


@dataclass(frozen=True)
class Shard:
    """A shard and what is known of it."""

    name: str
    """Path relative to the image root."""
    sha256: str
    rows: int
    columns: Sequence[str]
    """Those with pictures."""
    places: np.ndarray
    """``PLACE`` [n]: the pictures inside, by row, column and index, with a hash of the bytes."""
    paths: Sequence[tuple[int, int, int, str]]
    """``(row, column, index, path)`` of pictures that are files of their own."""


def shards_below(root: Path, files: Sequence[str] = ()) -> list[Path]:
    """The Parquet files in ``root`` and its folders, by path; ``root`` itself if it is a file.

    ``files``: names or patterns relative to ``root`` (``**`` for any folders); none: all. Hidden
    names and those that begin with ``_`` do not count. Raises UserError for patterns that match
    nothing, several splits, shards that are missing or there twice, downloads that did not end, and
    (without ``files``) other files with rows.
    """
    if root.is_file():
        return [root]
    if files:
        found = {name: [p for p in root.glob(name) if p.is_file()] for name in files}
        if empty := [name for name, paths in found.items() if not paths]:
            raise UserError(f"data.files: {some(empty)} match no file below {str(root)!r}.")
        shards = {path for paths in found.values() for path in paths}
    else:
        below = [path for path in root.rglob("*") if _counts(path.relative_to(root))]
        names = [str(path.relative_to(root)) for path in below]
        _refuse(root, [n for n in names if BROKEN.search(n)], "are downloads that did not end")
        rows = [n for n in names if READ.search(n) or UNREAD.search(n)]
        other = [n for n in rows if not n.lower().endswith(".parquet")]
        other = [n for n in other if not NOTES.fullmatch(Path(n).name)]
        _refuse(root, other, "hold rows or pictures and are no Parquet; name the shards that are "
                             "to be read by data.files")  # fmt: skip
        shards = {path for path in below if path.name.lower().endswith(".parquet")}
    if not shards:
        raise UserError(f"{str(root)!r}: no Parquet file is in this folder or below it.")
    ordered = sorted(shards, key=lambda path: path.relative_to(root).parts)
    _refuse_splits(root, ordered)
    folders: dict[Path, list[str]] = {}
    for path in ordered:
        folders.setdefault(path.parent, []).append(path.name)
    for folder, names in folders.items():
        refuse_parts(folder, names)
    return ordered


def _counts(name: Path) -> bool:
    return not any(part[0] in "._" for part in name.parts)


def _refuse(root: Path, names: Sequence[str], why: str) -> None:
    if names:
        raise UserError(f"{str(root)!r}: {some(names)} {why}.")


def _refuse_splits(root: Path, shards: Iterable[Path]) -> None:
    """Raise UserError for folders of several splits."""
    parts = {part.lower() for path in shards for part in path.relative_to(root).parts[:-1]}
    if len(found := sorted(parts & SPLITS)) > 1:
        raise UserError(
            f"{str(root)!r}: the splits {', '.join(found)} lie side by side. Name the one that is "
            "to be read, e.g. 'data.files=[\"**/train/*.parquet\"]'."
        )


def look_at(paths: Sequence[Path], root: Path, columns: Mapping[str, Any]) -> list[Shard]:
    """What is known of the shards at ``paths``, named relative to ``root``; others are read now.

    Raises UserError for a file that is no whole Parquet, and for one outside ``root``.
    """
    names = [_name(path, root) for path in paths]
    cache = _Cache(columns)
    stale = [path for path in paths if not cache.knows(path)]
    total = sum(path.stat().st_size for path in stale)
    if stale:
        with (
            bar("hash shards", total=total, unit="B") as progress,
            ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool,
        ):
            for path, facts in zip(stale, pool.map(cache.read, stale), strict=True):
                cache.remember(path, *facts)
                progress.update(path.stat().st_size)
    return [cache.recall(path, name) for path, name in zip(paths, names, strict=True)]


def _name(path: Path, root: Path) -> str:
    try:
        return str(path.absolute().relative_to(root.absolute()))
    except ValueError:
        raise UserError(
            f"data.images={str(root)!r}: the shard {path} does not lie below it, so its pictures "
            "cannot be named. Leave data.images out, or set it to a folder above the shards."
        ) from None


def open_shard(path: Path, columns: Mapping[str, Any]) -> tuple[Any, Layout]:
    """The open Parquet file and its layout. Raises UserError for a file that is none."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
        return file, layout_of(path, file.schema_arrow, columns)
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from None


def damaged(path: Path, error: Exception) -> UserError:
    """What is said of a shard that cannot be read."""
    first = str(error).split("\n", 1)[0]
    return UserError(
        f"{path} cannot be read as Parquet: {first}. A download that broke off, or a git-lfs "
        "pointer in place of the file, looks like this: fetch it again."
    )


class _Cache:
    """What was found of shards, in files named by path and columns."""

    def __init__(self, columns: Mapping[str, Any]) -> None:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
        self.folder = Path(base) / "coincide" / "digests" / "shards"
        self.columns = columns
        self.here: dict[Path, tuple[dict[str, Any], np.ndarray]] = {}

    def _file(self, path: Path) -> Path:
        which = f"{path.absolute()}\0{sorted(self.columns.items())}\0{LOOK}"
        name = hashlib.sha256(which.encode("utf-8", "surrogateescape")).hexdigest()[:24]
        return self.folder / f"{name}.json"

    def knows(self, path: Path) -> bool:
        """Whether the shard is the one that was read; what was found is at hand then."""
        known = read_cache(self._file(path))
        status = path.stat()
        if known.get("stamp") != [status.st_size, status.st_mtime_ns]:
            return False
        with suppress(OSError, ValueError):
            places = np.load(self._file(path).with_suffix(".npy"), allow_pickle=False)
            if places.dtype == PLACE and len(places) == known.get("pictures"):
                self.here[path] = (known, places)
                return True
        return False

    def read(self, path: Path) -> tuple[dict[str, Any], np.ndarray]:
        """Hash a shard and its pictures."""
        import pyarrow as pa

        status = path.stat()
        file, layout = open_shard(path, self.columns)
        places, paths = [], []
        try:
            for row, column, index, found in pictures_in(file, layout):
                if isinstance(found, str):
                    paths.append((row, column, index, found))
                else:
                    digest = hashlib.blake2b(found, digest_size=16).digest()
                    places.append((row, column, index, digest))
        except (pa.ArrowException, OSError) as error:
            raise damaged(path, error) from None
        known = {
            "stamp": [status.st_size, status.st_mtime_ns],
            "sha256": sha256_file(path),
            "rows": file.metadata.num_rows,
            "columns": layout.pictures,
            "pictures": len(places),
            "paths": paths,
        }
        return known, np.array(places, PLACE)

    def remember(self, path: Path, known: dict[str, Any], places: np.ndarray) -> None:
        self.here[path] = (known, places)
        file = self._file(path)
        with suppress(OSError):  # a read-only home costs time, not the answer
            file.parent.mkdir(parents=True, exist_ok=True)
            write_array(file.with_suffix(".npy"), places)
            write_json(file, known)

    def recall(self, path: Path, name: str) -> Shard:
        known, places = self.here[path]
        paths = [tuple(each) for each in known["paths"]]
        return Shard(name, known["sha256"], known["rows"], known["columns"], places, paths)


def first_of(shards: Sequence[Shard]) -> np.ndarray:
    """int64 [n]: for each picture inside, shard after shard, the number of the first with the same
    bytes.
    """
    digests = np.concatenate([shard.places["digest"] for shard in shards] or [np.array([], "S16")])
    _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    return np.asarray(first[inverse], np.int64)
