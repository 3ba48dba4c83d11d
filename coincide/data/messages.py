"""``data=messages``: datasets in other trainers' formats, read as they are; see ``docs/DATA.md``.

A JSON list, JSON lines or Parquet. :mod:`coincide.data.forms` finds the conversation; a turn's
content is text or a list of parts (OpenAI, Anthropic, TRL, axolotl, Qwen). Pictures come from
``images`` or ``image``, from parts, from turns, and from ``<img>path</img>`` in a text: paths, or
the pictures themselves, which are written as files (:mod:`coincide.data.inline`).

Every turn and picture keeps its place. ``<image>`` and parts without a path take the row's pictures
in their order; if a row's text has fewer ``<image>`` than the row has pictures, the missing ones
are put before the first question, as in LLaMA-Factory and ms-swift. System prompts are left out and
counted, as for LLaVA json: the template has its own. Tool calls, other media and pictures by URL
are faults of the row.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from coincide.data.convert import to_llava
from coincide.data.fault import BadRow
from coincide.data.inline import picture_writer
from coincide.data.llava_json import LlavaJson
from coincide.data.rows import inert, scan
from coincide.schema import Dataset
from coincide.store import Build
from coincide.system.files import write_list

TRAIN = "train.json"
"""File of the artifact with the rows as LLaVA json, from which subsets are written."""


@dataclass(frozen=True)
class Messages(LlavaJson):
    """A file of messages and its image folder."""

    form: ClassVar[str] = "messages"

    name: str = "messages"

    def rows(self, annotations: Path) -> Iterable[tuple[int, str, Any]]:
        """Yields ``(row, LLaVA json, value)``, or ``(row, text, fault)``."""
        as_text = self.on_media_tag == "text"
        return read_messages(annotations, Path(self.images), tags_as_text=as_text)

    def reading(self) -> str:
        """The format, and whether tags in a text are plain text, which affects what pictures there
        are.
        """
        return f"{self.form}-text" if self.on_media_tag == "text" else self.form

    def sources_rule(self) -> dict[str, Any]:
        """How sources are inferred, and that the rows were messages, for the key."""
        return {"source_field": self.source_field, "form": self.form}

    def reads_more(self) -> bool:
        """Whether faults are tolerated: formats that were faults in an earlier version are read
        now.
        """
        return self.on_bad_row == "drop"

    def open(self, artifact: Path) -> Dataset:
        """The dataset; its subsets are written from the artifact's LLaVA json."""
        return replace(super().open(artifact), annotations=artifact / TRAIN)

    def _build(self, build: Build) -> dict[str, Any]:
        facts = super()._build(build)
        build.expect(Path(self.annotations).stat().st_size)
        texts = (text for _, text, _ in self.rows(Path(self.annotations)))
        write_list(build.dir / TRAIN, texts)
        return facts


def read_messages(
    path: Path, image_root: Path, *, tags_as_text: bool = False
) -> Iterator[tuple[int, str, Any]]:
    """Yield ``(row, text, value)`` for each row of ``path``, and write embedded pictures.

    A row that cannot be converted to LLaVA json is yielded as its :class:`BadRow`, with its
    original text. ``tags_as_text``: ``<img>path</img>`` in a text is plain text.
    """
    keep = picture_writer(image_root)
    for row, text, value in scan(path):
        try:
            record = to_llava(value, image_root, keep, tags_as_text=tags_as_text)
            yield row, json.dumps(record, default=inert), record
        except BadRow as fault:
            yield row, text, fault
