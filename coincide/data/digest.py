"""Identify the content of a dataset by two hashes; cached, so that only the first time takes long.

Every byte of the annotations and of the images they name is hashed once. Hashes are cached by size
and modification time in the user's cache folder (``$XDG_CACHE_HOME/coincide`` or
``~/.cache/coincide``), so later plans only list folders.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from coincide.data.fault import BadRow
from coincide.data.images import redrawn
from coincide.data.listing import file_states
from coincide.data.marks import FAULTS as MARKS
from coincide.data.media import FIELD, TAG
from coincide.data.parse import image_paths, parse
from coincide.data.rows import scan
from coincide.data.shards import shards_of, stamp_of
from coincide.system.files import read_cache, sha256_file, write_json
from coincide.terminal.progress import bar

RowReader = Callable[[Path], Iterable[tuple[int, str, Any]]]
"""Reads annotations: yields ``(row, text, value)`` like :func:`coincide.data.rows.scan`."""
KEPT = ("sha256", "rows", "marks", "tags")
"""What the cache stores about the annotations."""
LOOK = 4
"""Version of what counts as a mark or a tag; a cache of another version reads the rows again."""


@dataclass(frozen=True)
class Content:
    """SHA-256 of the annotations, and of (path, size, SHA-256) over its existing images."""

    annotations: str
    images: str
    rows: int
    marks: bool = False
    """Whether a row has marks of what is to be learnt, or fields with media that are not read."""
    tags: bool = False
    """Whether a text contains tags of other media."""
    redrawn: bool = False
    """Whether an image may be one that earlier versions made other RGB pixels of
    (:func:`coincide.data.images.redrawn`)."""


def content_of(
    annotations: Path, image_root: Path, rows: RowReader = scan, form: str = "llava"
) -> Content:
    """Hash a dataset whose annotations ``rows`` reads; ``form`` names the reader in the cache.

    Raises :class:`UserError` for malformed JSON and unsafe image paths.
    """
    file = _cache_file(annotations, image_root, form)
    known = _recall(file)
    stamp = stamp_of(annotations)
    now: dict[str, Any] = {"stamp": stamp, "look": LOOK, "images": {}}
    same = known.get("look") == LOOK and known.get("stamp") == stamp
    if stamp and same and known.keys() >= set(KEPT):
        names = list(known["images"])
        now |= {key: known[key] for key in KEPT}
    else:
        names, found = _look(rows(annotations))
        now |= {"sha256": _digest(annotations), **found}
    now["images"] = _hashes(image_root, names, known.get("images", {}))
    if now != known:
        with suppress(OSError):  # a read-only home costs time, not the answer
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, now)
    digest = hashlib.sha256()
    for name in sorted(names):
        entry = now["images"][name]
        if entry:
            digest.update(f"{name}\0{entry[0]}\0{entry[2]}\n".encode())
    redrawn = any(entry and entry[3] for entry in now["images"].values())
    return Content(
        now["sha256"], digest.hexdigest(), now["rows"], now["marks"], now["tags"], redrawn
    )


def _digest(annotations: Path) -> str:
    """SHA-256 of a file, or of those of a folder's shards in their order."""
    if not annotations.is_dir():
        return sha256_file(annotations)
    found = "\n".join(map(sha256_file, shards_of(annotations)))
    return hashlib.sha256(found.encode()).hexdigest()


def _look(values: Iterable[tuple[int, str, Any]]) -> tuple[list[str], dict[str, Any]]:
    """Distinct image paths in order of appearance; and number of rows, and whether there are
    marks.
    """
    names: dict[str, None] = {}
    rows, marks, tags = 0, False, False
    for row, _, value in values:
        rows += 1
        with suppress(BadRow):  # the reader reports it
            names.update(dict.fromkeys(image_paths(value) if isinstance(value, dict) else ()))
        example, _, fault = parse(row, value, lambda _: "")
        tags = tags or (fault is not None and fault.kind == TAG)
        marks = marks or (fault is not None and fault.kind in (*MARKS, FIELD))
        marks = marks or not all(turn.learn for turn in example.turns)
    return list(names), {"rows": rows, "marks": marks, "tags": tags}


def _hashes(root: Path, names: Sequence[str], known: dict[str, Any]) -> dict[str, Any]:
    """Name -> ``[size, mtime_ns, sha256, redrawn]``, or None for a missing file."""
    states = {name: list(astuple(state)) for name, state in file_states(root, names).items()}
    old = {n: known[n] for n in names if n in states and (known.get(n) or [])[:2] == states[n]}
    stale = [name for name in names if name in states and len(old.get(name, ())) < 4]

    def look(name: str) -> list[Any]:
        digest = old[name][2] if name in old else sha256_file(root / name)
        return [*states[name], digest, redrawn(root / name)]

    fresh: dict[str, list[Any]] = {}
    if stale:
        with (
            bar("hash images", total=len(stale), unit="image") as progress,
            ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool,
        ):
            for name, entry in zip(stale, pool.map(look, stale), strict=True):
                fresh[name] = entry
                progress.update(1)
    return {name: fresh.get(name) or old.get(name) for name in names}


def _cache_file(annotations: Path, image_root: Path, form: str) -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    which = f"{annotations.absolute()}\0{image_root.absolute()}\0{form}"
    name = hashlib.sha256(which.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return Path(base) / "coincide" / "digests" / f"{name}.json"


def _recall(file: Path) -> dict[str, Any]:
    found = read_cache(file)
    return found if {"stamp", "images"} <= found.keys() else {}
