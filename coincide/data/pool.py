"""``data=parquet``: a pool in Parquet shards, whose pictures stay where they are.

The shards lie in ``annotations``, a folder (with folders in it, as a hub's dataset has one for each
of its parts) or one file. Their columns are found or named; conversations may have any form that
``data=messages`` reads, and pictures lie in a column: bytes, base64, ``datasets.Image``, lists of
these, or paths of files. A picture inside a shard is named by its cell
(:mod:`coincide.data.cells`); rows that show the same bytes name the same cell, the first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pyarrow import compute

from coincide.data.blocks import TEXT, as_bytes
from coincide.data.cells import PictureCell
from coincide.data.convert import to_llava
from coincide.data.digest import Content
from coincide.data.fault import BadRow
from coincide.data.fetch_pool import pool_requirements
from coincide.data.hubfiles import HubFiles, card_rows
from coincide.data.judge import Missing
from coincide.data.layout import records_in
from coincide.data.llava_json import LlavaJson
from coincide.data.poolfiles import Shard, damaged, first_of, look_at, open_shard, shards_below
from coincide.data.prepare import absent, prepare, refuse_absent, requirements
from coincide.data.report import DataReport
from coincide.data.rows import inert
from coincide.data.shards import SPLITS, some
from coincide.data.states import States, hash_files, look
from coincide.protocols import Requirement
from coincide.schema import UserError
from coincide.system.files import sha256_file
from coincide.terminal.inert import inert as plain
from coincide.terminal.progress import SOON, bar

SOURCES = ("source", "data_source", "dataset")
"""Columns that say which part of the pool a row belongs to."""
NOTHING = {"data", "default", *SPLITS}
"""Names of folders that say nothing about what is in them."""


@dataclass(frozen=True)
class ParquetPool(LlavaJson):
    """A folder of Parquet shards with pictures inside, or of one such file."""

    form: ClassVar[str] = "parquet"

    name: str = "parquet"
    images: str = ""
    """The folder below which the shards lie, and files that they name; empty: ``annotations``. A
    file stands for its folder."""
    files: Sequence[str] = ()
    """Names or patterns of shards below ``annotations``; none: all Parquet files there."""
    columns: Any = ()
    """Field -> the column that is read as it, e.g. ``{images: picture, answer: caption}``."""
    on_media_tag: str = "text"
    hub: HubFiles | None = field(default=None, compare=False)
    """The repository whose files are fetched to ``root``."""
    parts: int = 0
    """Parts that the pool has as published (its folders); 0: not checked."""

    def __post_init__(self) -> None:
        """Raise UserError for invalid options."""
        where = Path(self.images or self.annotations)
        object.__setattr__(self, "images", str(where.parent if where.is_file() else where))
        # hashable, as the other fields are
        object.__setattr__(self, "files", tuple(self.files or ()))
        named = dict(self.columns or ())
        held = {k: v if isinstance(v, str) else tuple(v) for k, v in named.items()}
        object.__setattr__(self, "columns", tuple(sorted(held.items())))
        super().__post_init__()

    @property
    def named(self) -> dict[str, Any]:
        """``columns`` as a mapping."""
        return dict(self.columns)

    def sources_rule(self) -> dict[str, Any]:
        """How sources are inferred, and what the columns are read as, for the key."""
        named = {"columns": self.named} if self.columns else {}
        return {"source_field": self.source_field, "form": self.form, **named}

    def reading(self) -> str:
        """The reader, and which shards and columns it is told to read."""
        return json.dumps([self.form, self.on_media_tag, self.files, self.columns])

    def reads_more(self) -> bool:
        """True: there was no earlier version of this reader."""
        return True

    def files_here(self) -> list[Path]:
        """The paths of the shards, in the order in which they are read."""
        return shards_below(Path(self.annotations), self.files)

    def shards(self) -> tuple[Shard, ...]:
        """The shards, hashed when they are new."""
        return _shards(self.images, self.columns, self.stamp())

    def content(self) -> Content:
        """Hashes of the shards, and of files that they name."""
        refuse_absent(self)
        shards = self.shards()
        said = "".join(f"{shard.name}\0{shard.sha256}\n" for shard in shards)
        named = sorted({as_bytes(path) for shard in shards for *_, path in shard.paths})
        files = _files(self.images, pa.array(named, TEXT))
        return Content(
            hashlib.sha256(said.encode("utf-8", "surrogateescape")).hexdigest(),
            files.digest(),
            sum(shard.rows for shard in shards),
            stamp=self.stamp(),
            states=files,
        )

    def size(self) -> int:
        """Number of rows, by the footers of the shards."""
        return self.content().rows

    def stamp(self) -> Any:
        """Sizes and times of the shards."""
        found = [(path, path.stat()) for path in self.files_here()]
        return tuple((str(path), status.st_size, status.st_mtime_ns) for path, status in found)

    def missing(self, content: Content) -> Missing:
        """Files that are not there; a cell was read as the shard was."""
        states = content.states

        def missing(names: pa.Array) -> np.ndarray:
            assert states is not None
            inside = compute.match_substring(names, b".parquet#", ignore_case=True)
            return states.missing(names) & ~inside.to_numpy(zero_copy_only=False)

        return missing

    def requirements(self) -> list[Requirement]:
        """The shards, as far as they are here."""
        if self.hub is None:
            return requirements(self)
        return pool_requirements(self, absent(self, "annotations"), partial(prepare, self))

    def accept(self, report: DataReport) -> None:
        """Also compare shards with the hub's hashes, and parts and their rows with those published.

        Raises UserError where they differ, of the latter if ``expect`` is ``published``.
        """
        refuse_other_bytes(self)
        if self.expect == "published":
            refuse_other_counts(self)
        super().accept(report)

    def source_of(self, value: dict[str, Any]) -> str:
        """``source_field`` of a row, else the first of its fields ``source``, ``data_source`` and
        ``dataset``, one of which is the shard's folder where the columns have none.
        """
        names = SOURCES if self.source_field is None else (self.source_field,)
        found = (value.get(name) for name in names)
        return next((text for text in found if isinstance(text, str) and text), "unknown")

    def rows(self, annotations: Path) -> Iterator[tuple[int, str, Any]]:
        """Yields ``(row, LLaVA json, value)``, or ``(row, text, fault)``."""
        shards, root = self.shards(), Path(self.images)
        pictures = _Pictures(shards, root)
        with bar(
            "read rows", total=sum(s.rows for s in shards), unit="row", delay=SOON
        ) as progress:
            for number, record in enumerate(self._records(shards, pictures, progress)):
                try:
                    value = to_llava(
                        record, root, _refuse, tags_as_text=self.on_media_tag == "text"
                    )
                    yield number, json.dumps(value, default=inert), value
                except BadRow as fault:
                    yield number, json.dumps(record, default=inert), fault

    def _records(
        self, shards: Sequence[Shard], pictures: _Pictures, progress: Any
    ) -> Iterator[dict[str, Any]]:
        """The rows of all shards as their columns have them, with their pictures by name."""
        for number, (path, shard) in enumerate(zip(self.files_here(), shards, strict=True)):
            file, layout = open_shard(path, self.named)
            part = part_of(path, Path(self.annotations))
            shown = pictures.by_row(number)
            try:
                for row, record in enumerate(records_in(file, layout, progress)):
                    if not any(isinstance(record.get(name), str) for name in SOURCES):
                        record[next(name for name in SOURCES if name not in record)] = part
                    if names := shown.pop(row, None):
                        record["images"] = names
                    yield {"id": f"{shard.name}#{row}", **record}
            except (pa.ArrowException, OSError) as error:
                raise damaged(path, error) from None


_known: dict[str, States] = {}
"""Image root -> files below it as they were last hashed in this process."""


def _files(root: str, names: pa.Array) -> States:
    """Size, time and hash of those of ``names`` that are files below ``root``."""
    found = look(Path(root), names)
    if root in _known:
        found.take_hashes(_known[root])
    hash_files(Path(root), found, sha256_file)
    _known[root] = found
    return found


@lru_cache(maxsize=1)
def _shards(
    images: str, columns: Sequence[tuple[str, Any]], stamps: Sequence[tuple[str, int, int]]
) -> tuple[Shard, ...]:
    """Kept in the process: a run asks several times what the pool's content is."""
    return tuple(look_at([Path(path) for path, *_ in stamps], Path(images), dict(columns)))


def part_of(path: Path, root: Path) -> str:
    """The part of the pool at ``root`` that the shard at ``path`` belongs to: its first folder that
    says something, else the name of the folder, or of the one file.
    """
    if root.is_file():
        return root.stem
    folders = path.relative_to(root).parts[:-1]
    return next((name for name in folders if name.lower() not in NOTHING), root.absolute().name)


def rows_by_part(source: ParquetPool) -> dict[str, int]:
    """Part of the pool -> its rows, by the footers of the shards."""
    found: dict[str, int] = {}
    for path, shard in zip(source.files_here(), source.shards(), strict=True):
        part = part_of(path, Path(source.annotations))
        found[part] = found.get(part, 0) + shard.rows
    return found


def refuse_other_bytes(source: ParquetPool) -> None:
    """Raise UserError for shards that are not the files that the hub listed."""
    listed = source.hub.listed(Path(source.root)) if source.hub else []
    stated = {Path(source.root, file.path): file.sha256 for file in listed if file.sha256}
    found = zip(source.files_here(), source.shards(), strict=True)
    wrong = [str(path) for path, shard in found if stated.get(path, shard.sha256) != shard.sha256]
    if wrong:
        raise UserError(
            f"{len(wrong):,} shards have other bytes than the hub lists: {some(wrong)}. Remove "
            f"them and run python -m coincide.data.prepare data={source.name} again."
        )


def refuse_other_counts(source: ParquetPool) -> None:
    """Raise UserError if the pool has another number of parts than published, or a part another
    number of rows than the dataset's card beside the shards states.
    """
    got, stated = rows_by_part(source), card_rows(Path(source.annotations))
    wrong = {
        part: (got.get(part, 0), rows) for part, rows in stated.items() if got.get(part, 0) != rows
    }
    if not wrong and source.parts in (0, len(got)):
        return
    lines = [f"  {plain(p)}: {mine:,} rows, {its:,} stated" for p, (mine, its) in wrong.items()]
    parts = f"; {len(got):,} parts, {source.parts:,} published" if source.parts else ""
    said = "\n".join(["", *lines[:20], *(["  ..."] if len(lines) > 20 else [])])
    raise UserError(
        f"{source.annotations} is not the pool as published{parts}{said}\nFetch what is missing "
        f"(python -m coincide.data.prepare data={source.name}), or set data.expect=any for a part "
        "of it."
    )


def _refuse(name: str, content: bytes) -> None:
    """Refuse a picture inside the turns, which has no cell of its own."""
    raise BadRow(
        "picture inside a turn",
        "pictures are read in place from columns alone; data=messages reads those inside turns, "
        "and writes them as files",
    )


class _Pictures:
    """The names of the pictures of each row."""

    def __init__(self, shards: Sequence[Shard], root: Path) -> None:
        self.shards, self.root = shards, root
        self.ends = np.cumsum([0, *(len(shard.places) for shard in shards)])
        self.first = first_of(shards)

    def by_row(self, shard: int) -> dict[int, list[Any]]:
        """Row -> its pictures in their order, for the rows of one shard that have any."""
        found: dict[int, list[tuple[int, int, Any]]] = {}
        its = self.shards[shard]
        for place, (row, column, index, _) in enumerate(its.places.tolist(), self.ends[shard]):
            name = self._cell(int(self.first[place]))
            found.setdefault(row, []).append((column, index, name))
        for row, column, index, path in its.paths:
            found.setdefault(row, []).append((column, index, path))
        return {row: [name for *_, name in sorted(each)] for row, each in found.items()}

    def _cell(self, place: int) -> str:
        number = int(np.searchsorted(self.ends, place, "right")) - 1
        shard = self.shards[number]
        row, column, index, _ = shard.places[place - self.ends[number]].tolist()
        return str(PictureCell(shard.name, row, shard.columns[column], index))
