"""``data=messages``: the forms of other trainers, read as they stand; ``docs/DATA.md`` lists them.

A JSON list, JSON lines or Parquet. The conversation is what :mod:`coincide.data.forms` finds; a
turn's content is text or a list of parts (OpenAI, Anthropic, TRL, axolotl, Qwen). Pictures are
those of ``images`` or ``image``, of parts, of turns, and ``<img>path</img>`` in a text: paths, or
the pictures themselves, which become files (:mod:`coincide.data.inline`).

Every turn and picture comes through in its place. ``<image>`` and parts without a path take the
row's pictures in their order; where a row's text has fewer ``<image>`` than it brings pictures, the
missing ones stand before the first question, as LLaMA-Factory and ms-swift put them. System
prompts are left out and counted, as of LLaVA json: the template has its own. Tool calls, other
media and pictures by URL are faults of their row.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from coincide.data.convert import to_llava
from coincide.data.fault import BadRow
from coincide.data.inline import picture_writer
from coincide.data.llava_json import LlavaJson
from coincide.data.rows import inert, scan
from coincide.schema import Dataset
from coincide.store import Build
from coincide.system.files import write_atomic

TRAIN = "train.json"
"""The rows as LLaVA json, in the artifact: what subsets are cut from."""


@dataclass(frozen=True)
class Messages(LlavaJson):
    """A file of messages and the folder of its images."""

    form: ClassVar[str] = "messages"

    name: str = "messages"

    def rows(self, annotations: Path) -> Iterable[tuple[int, str, Any]]:
        """``(row, LLaVA json, value)``, or ``(row, text, fault)``."""
        as_text = self.on_media_tag == "text"
        return read_messages(annotations, Path(self.images), tags_as_text=as_text)

    def reading(self) -> str:
        """The form, and whether tags in a text are words: it settles which pictures there are."""
        return f"{self.form}-text" if self.on_media_tag == "text" else self.form

    def sources_rule(self) -> dict[str, Any]:
        """How sources are told, and that the rows were messages, for the key."""
        return {"source_field": self.source_field, "form": self.form}

    def reads_more(self) -> bool:
        """Forms that were faults once are read now, where faults are no error."""
        return self.on_bad_row == "drop"

    def open(self, artifact: Path) -> Dataset:
        """The dataset, whose subsets are cut from the artifact's LLaVA json."""
        return replace(super().open(artifact), annotations=artifact / TRAIN)

    def _build(self, build: Build) -> dict[str, Any]:
        facts = super()._build(build)
        texts = (text for _, text, _ in self.rows(Path(self.annotations)))
        write_atomic(build.dir / TRAIN, partial(_write_list, texts))
        return facts


def read_messages(
    path: Path, image_root: Path, *, tags_as_text: bool = False
) -> Iterator[tuple[int, str, Any]]:
    """Yield ``(row, text, value)`` for each row of ``path``; a row that cannot be said in LLaVA
    json comes as the :class:`BadRow`, its text as it stands. Inline pictures are written.
    ``tags_as_text``: ``<img>path</img>`` in a text is text.
    """
    keep = picture_writer(image_root)
    for row, text, value in scan(path):
        try:
            record = to_llava(value, image_root, keep, tags_as_text=tags_as_text)
            yield row, json.dumps(record, default=inert), record
        except BadRow as fault:
            yield row, text, fault


def _write_list(items: Iterable[str], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as handle:
        handle.write("[\n")
        for number, item in enumerate(items):
            handle.write((",\n" if number else "") + item)
        handle.write("\n]\n")
