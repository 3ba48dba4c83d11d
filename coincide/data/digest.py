"""Identify the content of a dataset by two hashes; cached, so that only the first time takes long.

Every byte of the annotations and of the images they name is hashed once. What they hashed to is
cached, with sizes and modification times, in the user's cache folder (``$XDG_CACHE_HOME/coincide``
or ``~/.cache/coincide``), so later plans only look up files. The images are in a table of their
own, whose hash the cache's file holds.
"""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import compute, ipc

from coincide.data.blocks import TEXT, as_bytes
from coincide.data.cells import file_of
from coincide.data.fault import BadRow
from coincide.data.inline import FOLDER as INLINE
from coincide.data.marks import FAULTS as MARKS
from coincide.data.media import FIELD, TAG
from coincide.data.parse import image_paths, parse
from coincide.data.rows import scan
from coincide.data.shards import shards_of, stamp_of
from coincide.data.states import ABSENT, UNKNOWN, States, as_table, hash_files, look, of_table
from coincide.system.files import (
    read_cache,
    remove_temporary,
    sha256_file,
    write_atomic,
    write_json,
)

RowReader = Callable[[Path], Iterable[tuple[int, str, Any]]]
"""Reads annotations: yields ``(row, text, value)`` like :func:`coincide.data.rows.scan`."""
ROWS = ("stamp", "look", "sha256", "rows", "marks", "tags")
"""What the cache stores about the annotations."""
IMAGES = ("images", "redrawn", "table")
"""What it stores about the images: their digest, and name and SHA-256 of their table."""
LOOK = 4
"""Version of what counts as a mark or a tag; a cache of another version reads the rows again."""
OLD = 3600.0
"""Seconds after which a table of images that no file names is removed."""
SEVERAL = 65_536
"""Names of images that are gathered before they are compared with the others."""


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
    stamp: Any = field(default=None, compare=False, repr=False)
    """Sizes and times of the annotations when they were hashed."""
    states: States | None = field(default=None, compare=False, repr=False)
    """The images as they were looked at."""


def content_of(
    annotations: Path, image_root: Path, rows: RowReader = scan, form: str = "llava"
) -> Content:
    """Hash a dataset whose annotations ``rows`` reads; ``form`` names the reader in the cache.

    Raises :class:`UserError` for malformed JSON and unsafe image paths.
    """
    file = _cache_file(annotations, image_root, form)
    known = read_cache(file)
    states = _states(file, known)
    stamp = stamp_of(annotations)
    now: dict[str, Any] = {"stamp": stamp, "look": LOOK}
    old = {name: known[name] for name in ROWS if name in known}
    found = None
    if stamp and states is not None and len(old) == len(ROWS) and old.items() >= now.items():
        now, found = old, look(image_root, states.names, checked=True)
        if form != "llava" and _lost_inline(found):
            found = None  # reading the rows writes these pictures again
    if found is None:
        names, what = _look(rows(annotations))
        now |= {"sha256": _digest(annotations), **what}
        found = look(image_root, names)
    complete = isinstance(known.get("images"), str) and known.keys() >= set(IMAGES)
    if states is not None and complete and found.same(states):
        now |= {name: known[name] for name in IMAGES}
        found = states
    else:
        if states is not None:
            found.take_hashes(states)
        hash_files(image_root, found, sha256_file)
        now |= {"images": found.digest(), "redrawn": bool((found.redrawn == 1).any())}
        now["table"] = known.get("table")
    if now != known:
        with suppress(OSError):  # a read-only home costs time, not the answer
            _remember(file, now, None if found is states else found)
    return Content(
        now["sha256"], now["images"], now["rows"], now["marks"], now["tags"], now["redrawn"],
        stamp=stamp, states=found,
    )  # fmt: skip


def count_of(
    annotations: Path, image_root: Path, rows: RowReader = scan, form: str = "llava"
) -> int:
    """Number of rows, as :func:`content_of` counts them; where it did so before, nothing else is
    looked at.
    """
    known = read_cache(_cache_file(annotations, image_root, form))
    stamp = stamp_of(annotations)
    if stamp and known.get("stamp") == stamp and isinstance(known.get("rows"), int):
        return int(known["rows"])
    return content_of(annotations, image_root, rows, form).rows


def _lost_inline(found: States) -> bool:
    """Whether a picture that was part of a row is not where it was written."""
    lost = found.names.filter(pa.array(found.size == ABSENT))
    return bool(compute.any(compute.starts_with(lost, f"{INLINE}/".encode())).as_py())


def _digest(annotations: Path) -> str:
    """SHA-256 of a file, or of those of a folder's shards in their order."""
    if not annotations.is_dir():
        return sha256_file(annotations)
    found = "\n".join(map(sha256_file, shards_of(annotations)))
    return hashlib.sha256(found.encode()).hexdigest()


def _look(values: Iterable[tuple[int, str, Any]]) -> tuple[pa.Array, dict[str, Any]]:
    """Distinct image paths in order of appearance; and number of rows, and whether there are
    marks.
    """
    parts: list[pa.Array] = []
    names: list[bytes] = []
    rows, marks, tags = 0, False, False
    for row, _, value in values:
        rows += 1
        example, _, fault = parse(row, value, lambda _: "")
        shown = _named(value) if fault else example.images
        names += [as_bytes(file_of(name)) for name in shown]  # of a cell, its shard
        tags = tags or (fault is not None and fault.kind == TAG)
        marks = marks or (fault is not None and fault.kind in (*MARKS, FIELD))
        marks = marks or not all(turn.learn for turn in example.turns)
        if len(names) >= SEVERAL:
            parts.append(compute.unique(pa.array(names, TEXT)))
            names = []
    parts.append(pa.array(names, TEXT))
    return compute.unique(pa.chunked_array(parts)), {"rows": rows, "marks": marks, "tags": tags}


def _named(value: Any) -> tuple[str, ...]:
    """The images that a row with a fault names."""
    with suppress(BadRow):  # the reader reports it
        return image_paths(value) if isinstance(value, dict) else ()
    return ()


# --- the cache --------------------------------------------------------------------------------


def _cache_file(annotations: Path, image_root: Path, form: str) -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    which = f"{annotations.absolute()}\0{image_root.absolute()}\0{form}"
    name = hashlib.sha256(which.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return Path(base) / "coincide" / "digests" / f"{name}.json"


def _states(file: Path, known: dict[str, Any]) -> States | None:
    """The images that the cache ``known``, in ``file``, holds; None if there are none, or damaged
    ones.
    """
    if isinstance(known.get("images"), dict):
        return _of_earlier(known["images"])
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException):
        name, digest = known["table"]
        data = (_tables(file) / Path(name).name).read_bytes()
        if hashlib.sha256(data).hexdigest() == digest:
            return of_table(ipc.open_file(data).read_all())
    return None


def _of_earlier(images: dict[str, Any]) -> States | None:
    """The images of a cache of an earlier version, which held them itself."""
    found = States.unknown(pa.array(map(as_bytes, images), TEXT))
    with suppress(ValueError, TypeError):
        for place, entry in enumerate(images.values()):
            if entry:
                found.size[place], found.mtime[place] = entry[:2]
                found.sha256[place] = np.frombuffer(bytes.fromhex(entry[2]), np.uint8)
                found.redrawn[place] = bool(entry[3]) if len(entry) > 3 else UNKNOWN
        return found
    return None


def _tables(file: Path) -> Path:
    return file.parent.with_name("images")


def _remember(file: Path, now: dict[str, Any], found: States | None) -> None:
    """Write the table of images, if ``found`` is not None, then ``file``, which names it; remove
    former tables that no process can be about to name.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    if found is not None:
        _tables(file).mkdir(exist_ok=True)
        path = _tables(file) / f"{file.stem}-{uuid.uuid4().hex[:8]}.arrow"
        table = as_table(found)

        def write(temporary: Path) -> None:
            with ipc.new_file(str(temporary), table.schema) as writer:
                writer.write_table(table)
            with temporary.open("rb") as written:
                now["table"] = [path.name, hashlib.file_digest(written, "sha256").hexdigest()]

        write_atomic(path, write)
    write_json(file, now)
    remove_temporary(_tables(file))
    for path in _tables(file).glob(f"{file.stem}-*"):
        if path.name != now["table"][0] and time.time() - path.stat().st_mtime > OLD:
            path.unlink(missing_ok=True)
