"""The table of a dataset's rows: read from its annotations once, and kept in the store.

It is derived from the bytes of the annotations alone, so it can be removed at any time. Small ones
are made anew in memory instead, each time they are opened.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from coincide.data.blocks import ParsedRow
from coincide.data.digest import Content, RowReader
from coincide.data.parse import SourceOf, parse
from coincide.data.rows import scan
from coincide.data.shards import shards_of, stamp_of
from coincide.data.table import Rows, collect_rows, open_rows, write_rows
from coincide.schema import UserError
from coincide.store import Build, DamagedArtifact, Step, Store, open_artifact
from coincide.system.disk import DiskError

KIND, VERSION, FILE = "rows", 1, "rows.arrow"
SMALL = 32 * 2**20
"""Bytes of annotations up to which the table is not worth a place in the store."""


class Annotated(Protocol):
    """A data source with annotations."""

    @property
    def name(self) -> str: ...
    @property
    def annotations(self) -> str: ...
    def files_here(self) -> Sequence[Path]:
        """The files of the annotations."""
        ...

    def stamp(self) -> Any:
        """Their sizes and times."""
        ...

    def rows(self, annotations: Path) -> Iterable[tuple[int, str, Any]]: ...
    @property
    def source_of(self) -> SourceOf: ...
    def rows_config(self) -> Mapping[str, Any]:
        """What the rows depend on besides the bytes of the annotations."""
        ...

    @property
    def tags_as_text(self) -> bool: ...


def parsed(
    values: Iterable[tuple[int, str, Any]], source_of: SourceOf, *, tags_as_text: bool
) -> Iterator[ParsedRow]:
    """The rows of a table, from what a reader of annotations yields."""
    for row, text, value in values:
        example, left_out, fault = parse(row, value, source_of, tags_as_text=tags_as_text)
        yield ParsedRow(example, text, left_out, fault)


def rows_step(source: Annotated, content: Content) -> Step:
    """The step of the table, whose artifact holds ``rows.arrow``."""

    def build(build: Build) -> Mapping[str, Any]:
        build.expect(_bytes(source))
        before = source.stamp()
        count = write_rows(build.dir / FILE, _parsed(source))
        if not before == source.stamp() == content.stamp:
            raise UserError(
                f"data.annotations={source.annotations!r} changed while it was read. Run the "
                "command again; the new content gets artifacts of its own."
            )
        return {"rows": count}

    config = {"annotations": content.annotations, **source.rows_config()}
    return Step(KIND, source.name, VERSION, config, build)


def table_of(source: Annotated, content: Content, store: Store | None) -> Rows:
    """The rows of ``source``, which has ``content``: those kept in ``store``, made now if they are
    not there; without a store, or where nothing can be written to it, only for this process.
    """
    if store is None or _bytes(source) < SMALL:
        return collect_rows(_parsed(source))
    step = rows_step(source, content)
    try:
        store.ensure(step)
        return open_rows(store.verify(step, FILE).path / FILE)
    except DiskError:
        if os.access(store.root, os.W_OK):
            raise
        return collect_rows(_parsed(source))


def table_of_file(
    annotations: Path, reader: RowReader, source_of: SourceOf, *, tags_as_text: bool
) -> Rows:
    """The rows of the file ``annotations``, which ``reader`` reads. Those of LLaVA json that is a
    large file of an artifact are kept in its store: every process of a training reads them.
    """
    source = _File(str(annotations), reader, source_of, tags_as_text)
    found = _recorded(annotations) if reader is scan else None
    if found is None:
        return collect_rows(_parsed(source))
    content = Content(found, "", 0, stamp=stamp_of(annotations))
    return table_of(source, content, Store(annotations.absolute().parents[2]))


@dataclass(frozen=True)
class _File:
    """An :class:`Annotated` file on its own."""

    annotations: str
    reader: RowReader
    source_of: SourceOf
    tags_as_text: bool

    @property
    def name(self) -> str:
        return Path(self.annotations).parent.name.rpartition("-")[0]

    def files_here(self) -> Sequence[Path]:
        return shards_of(Path(self.annotations))

    def stamp(self) -> Any:
        return stamp_of(Path(self.annotations))

    def rows(self, annotations: Path) -> Iterable[tuple[int, str, Any]]:
        return self.reader(annotations)

    def rows_config(self) -> Mapping[str, Any]:
        rule = f"{self.source_of.__module__}.{self.source_of.__qualname__}"
        return {"source_of": rule, "tags": self.tags_as_text}


def _recorded(path: Path) -> str | None:
    """The SHA-256 of a file, if it belongs to an artifact, as recorded there."""
    try:
        file = open_artifact(path.absolute().parent).files.get(path.name)
    except DamagedArtifact:
        return None
    return file["sha256"] if file else None


def _parsed(source: Annotated) -> Iterator[ParsedRow]:
    values = source.rows(Path(source.annotations))
    return parsed(values, source.source_of, tags_as_text=source.tags_as_text)


def _bytes(source: Annotated) -> int:
    return sum(path.stat().st_size for path in source.files_here())
