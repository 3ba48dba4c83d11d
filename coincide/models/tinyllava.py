"""TinyLLaVA-2.0B, COINCIDE's reference model, converted from its own format to transformers'.

Zhou et al., "TinyLLaVA" (2024); code DLCV-BUAA/TinyLLaVABench, on which COINCIDE's builds. The
logits of the converted model equal the original's (tests/assets/tinyllava).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from coincide.models import assemble
from coincide.models.processor import ProcessorFiles, optional
from coincide.models.weights import PretrainedCheckpoint
from coincide.protocols import Requirement
from coincide.schema import UserError
from coincide.store import Build, Step

VERSION = 1
VOCABULARY = "arcade100k.tiktoken"
LAYER = -1
"""The original drops the tower's last block and uses the output of the one before, not
normalised."""


@dataclass(frozen=True)
class TinyLlava:
    """A reference of ``conf/reference``: StableLM-2-1.6B, SigLIP-so400m-384, 729 image tokens.

    ``repo`` and ``tower`` are ``owner/name`` on the Hugging Face Hub, ``owner/name@revision``, or
    folders. The original loads the tower from its own repository, not from ``repo``.
    """

    repo: str
    tower: str
    name: str = "tinyllava_2b"
    template: str = "phi"
    max_length: int = 3072
    layers: Sequence[int] = ()
    """Decoder layers that COINCIDE reads, counted from 0."""
    dtype: str = "float16"
    """Precision of the feature pass."""
    scale: Mapping[str, int] = field(default_factory=dict, compare=False)
    """``parameters``, ``hidden`` and ``image_tokens``; only for cost estimates."""

    @property
    def parts(self) -> dict[str, PretrainedCheckpoint]:
        """Name -> published files of each part."""
        return {"model": PretrainedCheckpoint(self.repo), "tower": PretrainedCheckpoint(self.tower)}

    def requirements(self) -> Sequence[Requirement]:
        """The weights of the parts on this machine."""
        return [part.requirement() for part in self.parts.values()]

    def processor(self) -> ProcessorFiles:
        """The model's vocabulary and the tower's size of pictures."""
        model = self.parts["model"].small((VOCABULARY,))
        tower = self.parts["tower"].small(("config.json",))
        return ProcessorFiles(
            {"model": model.identity(), "tower": tower.identity()},
            lambda folder: _processor(_folder(model), _folder(tower)).save_pretrained(folder),
            optional(model, tower),
        )

    def step(self) -> Step:
        """The step that converts the model.

        Its key contains the parts' contents, not their paths.
        """
        config = {name: part.identity() for name, part in self.parts.items()}
        return Step("model", self.name, VERSION, config, self._build)

    def _build(self, build: Build) -> Mapping[str, Any]:
        from coincide.models.tensors import read_tensors

        files = {name: part.paths() for name, part in self.parts.items()}
        folder, tower_folder = files["model"][0].parent, files["tower"][0].parent
        processor = _processor(folder, tower_folder)
        tokenizer = processor.tokenizer
        known = len(tokenizer) - 1  # all but <image>; the original cuts the rest off as well
        text, tower = text_config(_read(folder)), tower_config(_read(tower_folder))
        state = read_tensors(files["model"])
        last = f"encoder.layers.{tower.num_hidden_layers}."
        tensors = {
            **assemble.language(state, known, assemble.vocabulary(tokenizer)),
            **assemble.vision(read_tensors(files["tower"]), (last, "vision_model.head.")),
            **assemble.projector(state),
        }
        return assemble.save(
            build.dir / "model",
            tensors,
            assemble.make_config(tokenizer, text, tower, layer=LAYER, cls_token=False),
            processor,
        )


def _processor(folder: Path, tower_folder: Path) -> Any:
    from coincide.models.bpe import arcade_tokenizer

    half = SimpleNamespace(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    tokenizer, tower = arcade_tokenizer(_vocabulary(folder)), tower_config(_read(tower_folder))
    return assemble.make_processor(tokenizer, half, tower, cls_token=False)


def _folder(part: PretrainedCheckpoint) -> Path:
    return part.paths()[0].parent


def text_config(stored: Mapping[str, Any]) -> Any:
    """StableLM-2's transformers configuration, from the original's ``config.json``."""
    from transformers import StableLmConfig

    same = (
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "max_position_embeddings", "initializer_range",
        "bos_token_id", "eos_token_id",
    )  # fmt: skip
    theta, share = stored.get("rope_theta", 10000), stored.get("rope_pct", 0.25)
    return StableLmConfig(
        **{key: stored[key] for key in same if key in stored},
        hidden_act="silu",
        layer_norm_eps=stored.get("norm_eps", 1e-5),
        use_qkv_bias=stored.get("use_qkv_bias", True),
        rope_parameters={
            "rope_type": "default",
            "rope_theta": float(theta),
            "partial_rotary_factor": share,
        },
        tie_word_embeddings=False,
        dtype=stored.get("torch_dtype", "float16"),
    )


def tower_config(stored: Mapping[str, Any]) -> Any:
    """SigLIP's configuration without pooling head and last block, as the original uses it."""
    from transformers import SiglipVisionConfig

    stored = stored.get("vision_config", stored)
    same = (
        "hidden_size", "intermediate_size", "num_attention_heads", "num_channels", "image_size",
        "patch_size", "hidden_act", "layer_norm_eps",
    )  # fmt: skip
    return SiglipVisionConfig(
        **{**SO400M, **{key: stored[key] for key in same if key in stored}},
        num_hidden_layers=stored.get("num_hidden_layers", 27) - 1,
        vision_use_head=False,
    )


SO400M = {
    "hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16, "image_size": 384,
    "patch_size": 14,
}  # fmt: skip
"""The original's defaults for fields that a tower's config.json omits."""


def _read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def _vocabulary(folder: Path) -> Path:
    file = folder / VOCABULARY
    if not file.is_file():
        raise UserError(
            f"{folder} has no arcade100k.tiktoken, the vocabulary of TinyLLaVA-2.0B. It lies "
            "beside the weights in bczhou/TinyLLaVA-2.0B: fetch that as it is."
        )
    return file
