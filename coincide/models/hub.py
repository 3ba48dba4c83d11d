"""Any image-text model of transformers, from the Hugging Face cache or a folder.

For example SmolVLM, Qwen2.5-VL, llava-hf/llava-1.5-7b-hf. Code that comes with a model is never
run: only architectures of transformers itself are loaded.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from coincide.models.headers import not_finite, not_finite_text, unusable_reason
from coincide.models.processor import ProcessorFiles, published
from coincide.models.weights import PretrainedCheckpoint
from coincide.protocols import Requirement
from coincide.schema import UserError
from coincide.store import Build, Step
from coincide.system.files import write_atomic, write_json

VERSION = 1
PART = "image_processor"
"""Where processor_config.json holds the image processor's settings."""


@dataclass(frozen=True)
class Hub:
    """A published model, unchanged, as reference or target of ``conf``."""

    repo: str
    """``owner/name`` on the Hugging Face Hub, or a folder."""
    revision: str = "main"
    """Branch, tag or commit; ignored for a folder."""
    label: str = ""
    """Name in artifacts and plots; empty: the last part of ``repo``."""
    template: str = "chat"
    max_length: int = 2048
    layers: Sequence[int] = ()
    """For a reference: decoder layers that COINCIDE reads, counted from 0."""
    dtype: str = "bfloat16"
    """For a reference: precision of the feature pass."""
    pictures: Mapping[str, Any] = field(default_factory=dict)
    """Limits of pictures: settings of the model's image processor, e.g. ``max_pixels``; they are
    written into the copy of its files, so that every stage prepares pictures alike."""
    scale: Mapping[str, int] = field(default_factory=dict, compare=False)
    """``parameters``, ``hidden`` and ``image_tokens``; only for cost estimates."""

    @property
    def checkpoint(self) -> PretrainedCheckpoint:
        """The published files."""
        return PretrainedCheckpoint(self.repo, "" if self.revision == "main" else self.revision)

    @property
    def name(self) -> str:
        return self.label or self.checkpoint.name

    def requirements(self) -> Sequence[Requirement]:
        """The model's files, and that its tokenizer, template and weights fit together."""
        files = self.checkpoint.requirement()
        folder = self.checkpoint.folder()
        if folder is None or not files.met or not folder.is_dir():
            return [files]
        faults = unusable_reason(folder, self.checkpoint.paths(), self.template)
        found = "; ".join(faults) or "tokenizer, template and embedding fit"
        remedy = "Mend the folder's files, or choose another model or template." if faults else ""
        return [files, Requirement(f"model {self.repo}", not faults, found, remedy)]

    def processor(self) -> ProcessorFiles:
        """The model's small files, with the limits of pictures."""
        files = published(self.checkpoint)
        if not self.pictures:
            return files

        def write(folder: Path) -> None:
            files.write(folder)
            limit_pictures(folder, self.pictures)

        identity = {**files.identity, "pictures": dict(self.pictures)}
        return ProcessorFiles(identity, write, files.requirements)

    def step(self) -> Step:
        """The step that copies the model into the store.

        Its key contains the commit, or a folder's content, and the limits of pictures.
        """
        config: dict[str, Any] = {"model": self.checkpoint.identity()}
        config |= {"pictures": dict(self.pictures)} if self.pictures else {}
        return Step("model", self.name, VERSION, config, self._build)

    def _build(self, build: Build) -> Mapping[str, Any]:
        build.expect(size_of(self.checkpoint))
        copy_model(self.checkpoint, build.dir / "model")
        limit_pictures(build.dir / "model", self.pictures)
        return {"source": self.checkpoint.identity()}


def limit_pictures(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write ``settings`` of the image processor into the processor's files in ``folder``.

    Raises UserError if there are none.
    """
    if not settings:
        return
    done = False
    for name, inner in (("preprocessor_config.json", None), ("processor_config.json", PART)):
        file = folder / name
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
        part = found if found is None or inner is None else found.get(inner)
        if part is None:
            continue
        part.update({key: _plain(value) for key, value in settings.items()})
        file.unlink()  # it may be a link into the cache
        write_json(file, found)
        done = True
    if not done:
        raise UserError(
            f"{folder} has no image processor (preprocessor_config.json, processor_config.json) "
            f"to set {', '.join(settings)} in. Leave pictures empty, or take another model."
        )


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def size_of(checkpoint: PretrainedCheckpoint) -> int:
    """Bytes of the files of ``checkpoint``."""
    return sum(file.stat().st_size for file in checkpoint.paths())


def copy_model(checkpoint: PretrainedCheckpoint, folder: Path) -> None:
    """Copy the files of ``checkpoint`` to ``folder``, with weights as safetensors.

    Files of the cache, which never change, are hard-linked where possible. Of pickled weights
    (``.bin``) only tensors are read, see ``coincide.models.tensors``.
    """
    files = checkpoint.paths()
    folder.mkdir(parents=True, exist_ok=True)
    pickled = [file for file in files if file.suffix == ".bin"]
    for file in files:
        of_pickles = pickled and file.name.endswith(".index.json")
        if file in pickled or of_pickles or (folder / file.name).is_file():
            continue
        write_atomic(folder / file.name, partial(_place, checkpoint, file.resolve()))
    if pickled:
        from coincide.models.tensors import read_tensors, write_tensors

        write_tensors(folder, read_tensors(pickled))
    _refuse_not_finite(checkpoint, folder)


def _refuse_not_finite(checkpoint: PretrainedCheckpoint, folder: Path) -> None:
    """Raise :class:`UserError` if a weight is NaN or infinite: before features are computed, not
    when the model is loaded to train.
    """
    bad = [name for file in sorted(folder.glob("*.safetensors")) for name in not_finite(file)]
    if bad:
        raise UserError(not_finite_text(checkpoint.repo, bad))


def _place(checkpoint: PretrainedCheckpoint, source: Path, target: Path) -> None:
    if not checkpoint.local:
        with suppress(OSError):  # another file system
            os.link(source, target)
            return
    shutil.copyfile(source, target)
