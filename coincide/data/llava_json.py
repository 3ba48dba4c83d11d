"""LLaVA json: the general reader, and ``data=llava_json`` for one's own dataset.

A row is ``{"id": str | int, "image": str | [str], "conversations": [{"from": "human" | "gpt",
"value": str}, ...]}``; ``id`` and ``image`` may be absent, ids need not be unique.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from coincide.data.check import corrupt_images
from coincide.data.digest import Content, RowReader, content_of, count_of
from coincide.data.download import Download
from coincide.data.fault import BadRow
from coincide.data.index import write_index
from coincide.data.judge import Missing, as_seen, judge, looked_for
from coincide.data.kept import table_of, table_of_file
from coincide.data.parse import SourceOf, image_paths
from coincide.data.prepare import refuse_absent, requirements
from coincide.data.reasons import Reasons
from coincide.data.report import DataReport, Policies
from coincide.data.rows import scan
from coincide.data.shards import shards_of, stamp_of
from coincide.data.table import Rows
from coincide.protocols import Requirement
from coincide.schema import Dataset, UserError
from coincide.store import MANIFEST, Build, Step, Store
from coincide.system.files import write_atomic, write_json

VERSION = 1
READER = 3
"""Version of the reader: 2 honours marks of what is to be learnt and knows other media, 3 knows
more names of both, and rows with two conversations."""
PICTURES = 2
"""Version of the rule for RGB: 2 drops transparency and keeps the upper byte of 16 bits."""


def folder_source(value: dict[str, Any]) -> str:
    """The source of a row: the first folder of its (first) image; ``text`` without an image."""
    images = value.get("image")
    first = images[0] if isinstance(images, list) and images else images
    if not isinstance(first, str) or not first:
        return "text"
    return first.split("/")[0] if "/" in first else "images"


def read(
    annotations: Path,
    image_root: Path,
    *,
    name: str,
    source_of: SourceOf = folder_source,
    on_bad_row: str = "error",
    on_missing_image: str = "error",
    on_corrupt_image: str = "error",
    corrupt: Mapping[str, str] | None = None,
    tags_as_text: bool = False,
) -> Dataset:
    """The dataset in ``annotations``, with images below ``image_root``.

    ``corrupt``: image -> reason, for images known not to decode (``coincide.data.check``);
    ``tags_as_text``: tags of other media in a text are plain text, not a fault. Raises
    :class:`UserError` for malformed JSON (byte offset and row), for image paths that lead outside
    the root, and for faulty rows whose policy is ``error`` (counts, first rows, sources).
    """
    policies = Policies(on_bad_row, on_missing_image, on_corrupt_image)
    dataset, report = inspect(
        annotations,
        image_root,
        name=name,
        source_of=source_of,
        policies=policies,
        corrupt=corrupt,
        tags_as_text=tags_as_text,
    )
    report.refuse(policies)
    return dataset


def inspect(
    annotations: Path,
    image_root: Path,
    *,
    name: str,
    source_of: SourceOf = folder_source,
    policies: Policies | None = None,
    corrupt: Mapping[str, str] | None = None,
    rows: RowReader = scan,
    tags_as_text: bool = False,
) -> tuple[Dataset, DataReport]:
    """Like :func:`read`, with the report.

    Faulty rows are dropped even if their policy is ``error``. ``rows`` yields the rows of the file,
    as LLaVA json or as the fault that prevents it.
    """
    return judge(
        table_of_file(annotations, rows, source_of, tags_as_text=tags_as_text),
        annotations,
        image_root,
        name=name,
        policies=policies or Policies(),
        corrupt=corrupt or {},
        missing=looked_for(image_root),
    )


# --- data=llava_json --------------------------------------------------------------------------


@dataclass(frozen=True)
class LlavaJson:
    """A LLaVA json file with its image folder. Its artifact holds the result of checking both.

    Files: ``report.json`` (:class:`DataReport`), ``corrupt.json`` (image -> why it does not decode)
    and ``examples.parquet`` (row, id, source, images, turns, dropped). The data itself is not
    copied.
    """

    form: ClassVar[str] = "llava"
    """The reader that the annotations need."""

    annotations: str
    images: str
    """The image root; paths in the annotations are relative to it."""
    name: str = "llava_json"
    clusters: int = 1000
    """K for methods that cluster; read by ``conf/method``, not part of the data."""
    source_field: str | None = None
    """Field with a row's source; None: the first folder of its image path."""
    on_bad_row: str = "error"
    on_missing_image: str = "error"
    on_corrupt_image: str = "error"
    lost_at_most: float = 1.0
    """Largest share of rows that the policies may drop or blank."""
    expect: str = "any"
    """``published``: compare the rows with the published file's; ``any``: do not."""
    root: str = ""
    """Folder for ``downloads``."""
    downloads: Sequence[Download] = field(default=(), compare=False)
    scale: Mapping[str, int] = field(default_factory=dict, compare=False)
    """``rows`` and ``text_tokens`` (mean per row); only for cost estimates."""
    on_media_tag: str = "bad_row"
    """A tag of other media in a text (``<video>``, ``<|image_pad|>``, ``<box>``): ``bad_row``: a
    fault of the row with the policy ``on_bad_row``; ``text``: plain text."""

    def __post_init__(self) -> None:
        """Raise UserError for invalid options.

        Whether the files exist is checked when they are needed.
        """
        _ = self.policies
        if not 0 <= self.lost_at_most <= 1:
            raise UserError(f"lost_at_most={self.lost_at_most}: expected a share in [0, 1].")
        if self.on_media_tag not in ("bad_row", "text"):
            raise UserError(f"on_media_tag={self.on_media_tag!r}: the choices are bad_row, text.")
        if self.expect not in ("published", "any"):
            raise UserError(f"expect={self.expect!r}: the choices are published, any.")
        if self.expect == "any":  # an extract need not have the published sizes either
            smaller = tuple(replace(item, files=0, bytes=0) for item in self.downloads)
            object.__setattr__(self, "downloads", smaller)

    @property
    def policies(self) -> Policies:
        """The three policies for faulty rows."""
        return Policies(self.on_bad_row, self.on_missing_image, self.on_corrupt_image)

    def requirements(self) -> list[Requirement]:
        """Annotations, image folders, and disk space if something must be downloaded."""
        return requirements(self)

    def rows(self, annotations: Path) -> Iterable[tuple[int, str, Any]]:
        """Yields ``(row, text, value)``, the value in LLaVA's format or the row's fault."""
        return scan(annotations)

    def source_of(self, value: dict[str, Any]) -> str:
        """The source of a raw row."""
        if self.source_field is None:
            return folder_source(value)
        return str(value.get(self.source_field, "unknown"))

    def sources_rule(self) -> dict[str, Any]:
        """How sources are inferred, for the key."""
        return {"source_field": self.source_field}

    def accept(self, report: DataReport) -> None:
        """Raise :class:`UserError` if the data is not as expected; subclasses add checks."""
        report.refuse(self.policies, self.lost_at_most)

    def images_by_source(self) -> dict[str, list[str]]:
        """Source -> image paths, each once, under the source of the first row that names it."""
        found: dict[str, list[str]] = defaultdict(list)
        seen: set[str] = set()
        for _, _, value in self.rows(Path(self.annotations)):
            with suppress(BadRow):  # the reader reports it
                for name in image_paths(value) if isinstance(value, dict) else ():
                    if name not in seen:
                        seen.add(name)
                        found[self.source_of(value)].append(name)
        return dict(found)

    def step(self) -> Step:
        """The step that checks the data.

        Its key contains the bytes of annotations and images, not their paths.
        """
        content = self.content()
        config = {
            "annotations": content.annotations,
            "images": content.images,
            **self.sources_rule(),
            **asdict(self.policies),
            **self._reader(content),
            **({"pictures": PICTURES} if content.redrawn else {}),
        }
        note = f"{content.rows:,} rows"
        return Step("data", self.name, VERSION, config, self._build, note=note)

    def _reader(self, content: Content) -> dict[str, Any]:
        """Version of the reader, for the key, if the first version read the same file
        differently.
        """
        tags = content.tags and self.on_media_tag != "text"
        return {"reader": READER} if content.marks or tags or self.reads_more() else {}

    def reading(self) -> str:
        """Name and settings of the reader; caches are separate for each."""
        return self.form

    def reads_more(self) -> bool:
        """Whether rows may be read that the first version of the reader dropped as faulty."""
        return False

    def content(self) -> Content:
        """Hashes of annotations and images.

        Raises :class:`UserError` naming what is missing and how to get it.
        """
        refuse_absent(self)
        return content_of(Path(self.annotations), Path(self.images), self.rows, self.reading())

    def files_here(self) -> Sequence[Path]:
        """The files of the annotations, in the order in which they are read."""
        return shards_of(Path(self.annotations))

    def stamp(self) -> Any:
        """Sizes and times of :meth:`files_here`."""
        return stamp_of(Path(self.annotations))

    def missing(self, content: Content) -> Missing:
        """Which pictures were not there when ``content`` was made."""
        assert content.states is not None
        return as_seen(content.states, Path(self.images))

    def size(self) -> int:
        """Number of rows in the annotations, counted when they were hashed."""
        refuse_absent(self)
        return count_of(Path(self.annotations), Path(self.images), self.rows, self.reading())

    def open(self, artifact: Path) -> Dataset:
        """The dataset as checked in the artifact; UserError if its files have changed since."""
        return _open(self, artifact)

    @property
    def tags_as_text(self) -> bool:
        """Whether tags of other media in a text are plain text."""
        return self.on_media_tag == "text"

    def rows_config(self) -> dict[str, Any]:
        """What the rows depend on besides the bytes of the annotations."""
        elsewhere = {} if self.form == LlavaJson.form else {"images": os.path.abspath(self.images)}  # noqa: PTH100
        return {
            "class": f"{type(self).__module__}.{type(self).__qualname__}",
            "reader": READER,
            "reading": self.reading(),
            "tags": self.on_media_tag,
            **self.sources_rule(),
            **elsewhere,
        }

    def inspect(self, corrupt: Mapping[str, str]) -> tuple[Dataset, DataReport]:
        """The dataset and its report, without refusing anything yet."""
        return inspect(
            Path(self.annotations),
            Path(self.images),
            name=self.name,
            source_of=self.source_of,
            policies=self.policies,
            corrupt=corrupt,
            rows=self.rows,
            tags_as_text=self.tags_as_text,
        )

    def judge(
        self, rows: Rows, content: Content, corrupt: Mapping[str, str]
    ) -> tuple[Dataset, DataReport]:
        """The dataset of ``rows``, with the pictures as they were when ``content`` was made.

        Raises UserError for rows that the policies refuse.
        """
        dataset, report = judge(
            rows,
            Path(self.annotations),
            Path(self.images),
            name=self.name,
            policies=self.policies,
            corrupt=corrupt,
            missing=self.missing(content),
        )
        self.accept(report)
        return dataset, report

    def _build(self, build: Build) -> dict[str, Any]:
        content = self.content()
        rows = table_of(self, content, build.store)
        dataset, report = self.judge(rows, content, {})  # before the long check
        shown = rows.shown()
        corrupt = corrupt_images(dataset.image_root, shown.texts(), len(shown.names))
        del shown
        if corrupt:
            dataset, report = self.judge(rows, content, corrupt)
        if report.problems:
            lost = f"{report.dropped:,} dropped, {report.blank:,} with a blank picture"
            print(f"{self.name}: of {report.rows:,} rows {lost}:\n{report.faults()}", flush=True)
        if report.unlearnt_turns:
            print(
                f"{self.name}: {report.unlearnt_turns:,} answers are marked as not to be learnt: "
                "they are read as context and masked",
                flush=True,
            )
        write_json(build.dir / "corrupt.json", corrupt)
        write_json(build.dir / "report.json", report.as_json())
        dropped = dataset.dropped
        assert isinstance(dropped, Reasons)
        write_atomic(build.dir / "examples.parquet", lambda path: write_index(path, rows, dropped))
        facts = report.as_json()
        return {key: facts[key] for key in ("rows", "dropped", "blank", "text_only", "sources")}


@lru_cache(maxsize=1)
def _open(source: LlavaJson, artifact: Path) -> Dataset:
    """Cached in the process: a sweep opens the same half million rows for every method."""
    manifest = json.loads((artifact / MANIFEST).read_text(encoding="utf-8"))
    content = source.content()
    for what in ("annotations", "images"):
        if manifest["config"][what] != getattr(content, what):
            raise UserError(
                f"data.{what}={getattr(source, what)!r}: the content changed since {artifact} was "
                "made of it. Run the command again; the new content gets artifacts of its own."
            )
    corrupt = json.loads((artifact / "corrupt.json").read_text(encoding="utf-8"))
    rows = table_of(source, content, Store(artifact.parent.parent))
    return source.judge(rows, content, corrupt)[0]
