"""A model's processor without its weights: enough to find which rows the model can read."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from coincide.models.weights import PretrainedCheckpoint
from coincide.protocols import Requirement
from coincide.schema import UserError

CONFIGS = ("preprocessor_config.json", "processor_config.json")
"""Files, one of which describes how a model's pictures are prepared."""
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


@dataclass(frozen=True)
class ProcessorFiles:
    """Tokenizer, image processor and chat template, as the model's artifact will contain them."""

    identity: Mapping[str, Any]
    """What determines its results, for a key."""
    write: Callable[[Path], object]
    """Writes its files into a folder."""
    requirements: Sequence[Requirement] = ()
    """The files it is made from; a run goes on without them, see ``Experiment.scan``."""

    @property
    def there(self) -> bool:
        """Whether it can be made on this machine now."""
        return all(requirement.met for requirement in self.requirements)

    def load(self, name: str) -> Any:
        """The processor, made in a temporary folder; ``name`` is the model's.

        Raises :class:`UserError` if it does not load.
        """
        from coincide.models.load import load_processor

        with TemporaryDirectory() as folder:
            self.write(Path(folder))
            try:
                return load_processor(Path(folder))
            except UserError as error:
                raise UserError(str(error).replace(folder, f"model {name}")) from error


def published(checkpoint: PretrainedCheckpoint) -> ProcessorFiles:
    """The processor files of a complete published model."""
    small = checkpoint.small(CONFIGS, VOCABULARIES)

    def write(folder: Path) -> None:
        for file in small.paths():
            shutil.copyfile(file, folder / file.name)

    return ProcessorFiles(small.identity(), write, optional(small))


def optional(*parts: PretrainedCheckpoint) -> list[Requirement]:
    """The files of ``parts`` as requirements that a run can go on without."""
    found = [(part.repo, part.requirement()) for part in parts]
    return [
        replace(r, name=f"tokenizer and processor {repo}", bytes=0, fatal=False)
        for repo, r in found
    ]
