"""``data=vision_flan``: 186,103 examples of 191 tasks, at most a thousand of each (Xu et al. 2024,
arXiv 2402.11690). The source of a row is its task.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, ClassVar

from coincide.data.llava_json import LlavaJson
from coincide.data.report import DataReport
from coincide.schema import UserError

ROWS = 186_103
TASKS = 191
_TASK = re.compile(r"(.*[A-Za-z])_\d+(_.*)?")
"""``<task>_<number>`` or ``<task>_<number>_<name of the original image>``."""


def task_of(value: dict[str, Any]) -> str:
    """The task of a raw row: its ``task_name``, else the start of its id or image name."""
    name = value.get("task_name")
    if isinstance(name, str) and name:
        return name
    image = value.get("image")
    for text in (value.get("id"), PurePosixPath(image).stem if isinstance(image, str) else None):
        found = _TASK.fullmatch(text) if isinstance(text, str) else None
        if found:
            return found[1]
    return "unknown"


@dataclass(frozen=True)
class VisionFlan(LlavaJson):
    """The sampled Vision-Flan dataset. ``expect`` as for ``data=llava``."""

    sources: ClassVar[int] = 1
    """Version of :func:`task_of`."""

    name: str = "vision_flan"
    clusters: int = 2_500
    expect: str = "published"
    on_media_tag: str = "text"
    """Its media are pictures only; what looks like another tag in a text is plain text."""

    def source_of(self, value: dict[str, Any]) -> str:
        """The task of a raw row."""
        return task_of(value)

    def sources_rule(self) -> dict[str, Any]:
        """How sources are inferred, for the key."""
        return {"sources": f"vision_flan-{self.sources}"}

    def accept(self, report: DataReport) -> None:
        """Also compare the numbers of rows and tasks with the published ones.

        Raises UserError where they differ.
        """
        got = (report.rows, len(report.sources))
        if self.expect == "published" and got != (ROWS, TASKS):
            raise UserError(
                f"{self.annotations} is not the published Vision-Flan: got {got[0]:,} rows of "
                f"{got[1]} tasks, expected {ROWS:,} of {TASKS}. Fetch it again, or set "
                "data.expect=any for a file of your own."
            )
        super().accept(report)
