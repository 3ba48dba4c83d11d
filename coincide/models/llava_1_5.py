"""LLaVA-1.5 before its stage 2: Vicuna, CLIP and the projector of stage 1.

Liu et al., "Improved Baselines with Visual Instruction Tuning" (2023); code haotian-liu/LLaVA.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coincide.models import assemble
from coincide.models.processor import CONFIGS, ProcessorFiles, optional
from coincide.models.weights import PretrainedCheckpoint
from coincide.protocols import Requirement
from coincide.store import Build, Step

VERSION = 1
OPTIONS: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
LAYER = -2
"""LLaVA reads CLIP's second-to-last hidden state, without the class token."""


@dataclass(frozen=True)
class Llava15:
    """A target of ``conf/target`` that has seen no instruction data.

    Each part is ``owner/name`` on the Hugging Face Hub, ``owner/name@revision``, or a folder.
    Vicuna, CLIP and the projector are published as pickles (``.bin``), of which only tensors are
    read (``torch.load(weights_only=True)``).
    """

    language: str
    """Vicuna v1.5 of the size that the projector was made for."""
    projector: str
    """``mm_projector.bin`` of stage 1: its repository, a folder that contains it, or the file."""
    vision: str = "openai/clip-vit-large-patch14-336"
    name: str = "llava_1_5_7b"
    template: str = "vicuna_v1"
    max_length: int = 2048
    scale: Mapping[str, int] = field(default_factory=dict, compare=False)
    """``parameters``, ``hidden`` and ``image_tokens``; only for cost estimates."""

    @property
    def parts(self) -> dict[str, PretrainedCheckpoint]:
        """Name -> published files of each part."""
        return {
            "language": PretrainedCheckpoint(self.language),
            "vision": PretrainedCheckpoint(self.vision),
            "projector": PretrainedCheckpoint(self.projector, files=("mm_projector.bin",)),
        }

    def requirements(self) -> Sequence[Requirement]:
        """The weights of the parts on this machine."""
        return [part.requirement() for part in self.parts.values()]

    def processor(self) -> ProcessorFiles:
        """Vicuna's vocabulary and CLIP's preparation of pictures."""
        language = self.parts["language"].small(("tokenizer.model",))
        vision = self.parts["vision"].small(CONFIGS, ("config.json",))
        return ProcessorFiles(
            {"language": language.identity(), "vision": vision.identity()},
            lambda folder: _processor(*map(_folder, (language, vision))).save_pretrained(folder),
            optional(language, vision),
        )

    def step(self) -> Step:
        """The step that assembles the model.

        Its key contains the parts' contents, not their paths.
        """
        config = {name: part.identity() for name, part in self.parts.items()}
        return Step("model", self.name, VERSION, config, self._build)

    def _build(self, build: Build) -> Mapping[str, Any]:
        from transformers import AutoConfig

        from coincide.models.bpe import ADDED
        from coincide.models.tensors import read_tensors

        files = {name: part.paths() for name, part in self.parts.items()}
        vicuna, clip = files["language"][0].parent, files["vision"][0].parent
        text = AutoConfig.from_pretrained(vicuna, **OPTIONS)
        tower = _tower(clip)
        processor = _processor(vicuna, clip)
        tokenizer = processor.tokenizer
        known, rows = len(tokenizer) - len(ADDED), assemble.vocabulary(tokenizer)
        tensors = {
            **assemble.language(read_tensors(files["language"]), known, rows),
            **assemble.vision(read_tensors(files["vision"])),
            **assemble.projector(read_tensors(files["projector"])),
        }
        return assemble.save(
            build.dir / "model",
            tensors,
            assemble.make_config(tokenizer, text, tower, layer=LAYER, cls_token=True),
            processor,
        )


def _tower(clip: Path) -> Any:
    """The config of CLIP's vision tower."""
    from transformers import AutoConfig

    found = AutoConfig.from_pretrained(clip, **OPTIONS)
    return getattr(found, "vision_config", found)


def _processor(vicuna: Path, clip: Path) -> Any:
    from transformers import AutoImageProcessor

    from coincide.models.bpe import llama_tokenizer

    images = AutoImageProcessor.from_pretrained(clip, backend="pil", **OPTIONS)
    return assemble.make_processor(llama_tokenizer(vicuna), images, _tower(clip), cls_token=True)


def _folder(part: PretrainedCheckpoint) -> Path:
    return part.paths()[0].parent
