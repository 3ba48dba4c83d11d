"""``data=cambrian_7m``: Cambrian-7M (Tong et al. 2024, arXiv 2406.16860), LLaVA json in lines.

Its pictures come in archives, which are unpacked. The field ``source`` says which file of the
mixture a row comes from. Its system prompts are turns before the first question and left out, as
all are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from coincide.data.fetch_pool import pool_requirements
from coincide.data.hubfiles import HubFiles
from coincide.data.llava_json import LlavaJson
from coincide.data.prepare import absent, prepare, requirements
from coincide.protocols import Requirement


@dataclass(frozen=True)
class Cambrian(LlavaJson):
    """The mixture and its folder of pictures."""

    name: str = "cambrian_7m"
    source_field: str | None = "source"
    on_media_tag: str = "text"
    hub: HubFiles | None = field(default=None, compare=False)

    def requirements(self) -> list[Requirement]:
        """Annotations and pictures, as far as they are here."""
        if self.hub is None:
            return requirements(self)
        lacking = absent(self, "annotations") or absent(self, "images")
        return pool_requirements(self, lacking, partial(prepare, self))
