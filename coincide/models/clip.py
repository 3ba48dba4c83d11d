"""CLIP models: load a folder; published models; and the demo's tiny one.

The tiny CLIP is trained by ``coincide.models.pretrain_clip`` and ships with the project.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coincide.data.demo.captions import captioned
from coincide.data.demo.world import CELL, SIDE
from coincide.models.hub import copy_model, size_of
from coincide.models.load import pretrained
from coincide.models.tiny import ASSETS, WORDS
from coincide.models.weights import PretrainedCheckpoint
from coincide.protocols import Requirement
from coincide.schema import HealthError, UserError
from coincide.store import Build, Step
from coincide.system.files import sha256_file

VERSION, HUB_VERSION = 1, 1
WIDTH, LAYERS, HEADS, MLP, EMBEDDING, TEXT_LIMIT = 96, 2, 4, 192, 64, 77
END = "<|end|>"
GATE = 0.5
"""Required share of 128 held-out scenes whose own caption is the nearest of all 128."""


def load_clip(folder: Path, dtype: str, device: str) -> Any:
    """The CLIPModel in ``folder`` (safetensors), in evaluation mode; ``dtype`` is a torch name."""
    import torch
    from transformers import CLIPModel

    model, _ = pretrained(
        CLIPModel,
        folder,
        getattr(torch, dtype),
        device,
        what="CLIP folder",
        expected="a CLIPModel of transformers with safetensors weights",
    )
    return model


def make_clip_processor() -> Any:
    """The tiny CLIP's processor: images unchanged, the demo's words as tokens, ``<|end|>`` for
    pooling.
    """
    from tokenizers import processors
    from transformers import CLIPProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    from coincide.models.tokenizer import make_tokenizer

    tokenizer = make_tokenizer(WORDS)
    tokenizer.add_special_tokens({"eos_token": END})
    start, end = ("<s>", tokenizer.bos_token_id), (END, tokenizer.eos_token_id)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"<s> $A {END}", special_tokens=[start, end]
    )
    tokenizer.model_max_length = TEXT_LIMIT
    images = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return CLIPProcessor(image_processor=images, tokenizer=tokenizer)


def make_clip(tokenizer: Any) -> Any:
    """The tiny CLIP with random weights from torch's global generator."""
    from transformers import CLIPConfig, CLIPModel

    shared: dict[str, Any] = {
        "hidden_size": WIDTH,
        "intermediate_size": MLP,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "projection_dim": EMBEDDING,
    }
    text = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": TEXT_LIMIT,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {"image_size": SIDE, "patch_size": CELL}
    return CLIPModel(
        CLIPConfig(
            text_config={**shared, **text},
            vision_config={**shared, **vision},
            projection_dim=EMBEDDING,
        )
    )


@dataclass(frozen=True)
class HubClip:
    """A published CLIPModel with its projections, for ``conf/clip``."""

    repo: str
    """``owner/name`` on the Hugging Face Hub, or a folder."""
    revision: str = "main"
    label: str = ""
    """Name in artifacts; empty: the last part of ``repo``."""
    dtype: str = "float32"
    """Precision of the CLIP pass."""
    scale: Mapping[str, int] = field(default_factory=dict, compare=False)
    """``parameters``, ``hidden`` (of the embedding), ``image_tokens``; only for estimates."""

    @property
    def checkpoint(self) -> PretrainedCheckpoint:
        """The published files."""
        return PretrainedCheckpoint(self.repo, "" if self.revision == "main" else self.revision)

    @property
    def name(self) -> str:
        return self.label or self.checkpoint.name

    def requirements(self) -> Sequence[Requirement]:
        """The model's files on this machine."""
        return [self.checkpoint.requirement()]

    def step(self) -> Step:
        """The step that copies the model; its key contains the commit, or a folder's content."""
        config = {"model": self.checkpoint.identity()}
        return Step("model", self.name, HUB_VERSION, config, self._build)

    def _build(self, build: Build) -> Mapping[str, Any]:
        from transformers import AutoProcessor

        folder = build.dir / "model"
        build.expect(size_of(self.checkpoint))
        copy_model(self.checkpoint, folder)
        # the older files of CLIP as the one that today's transformers writes
        options = {"local_files_only": True, "trust_remote_code": False}
        AutoProcessor.from_pretrained(folder, **options).save_pretrained(folder)
        return {"source": self.checkpoint.identity()}


@dataclass(frozen=True)
class TinyClip:
    """The demo's CLIP, for ``conf/clip``: shipped weights, checked against ``GATE``."""

    name: str = "tiny_clip"
    dtype: str = "float64"
    """Precision of the CLIP pass. With float64 the values do not depend on batching."""

    @property
    def weights(self) -> Path:
        """Path of the shipped weights."""
        return ASSETS / "clip.safetensors"

    def step(self) -> Step:
        """The step that makes the model folder from the shipped weights."""
        config = {"weights": sha256_file(self.weights)}
        return Step("model", self.name, VERSION, config, self._build)

    def _build(self, build: Build) -> Mapping[str, Any]:
        processor = make_clip_processor()
        model = load_shipped(processor)
        found = retrieval(model, processor)
        if found < GATE:
            raise HealthError(
                f"the tiny CLIP finds {found:.0%} of held-out captions, expected {GATE:.0%}. "
                "Train it again: python -m coincide.models.pretrain_clip"
            )
        model.save_pretrained(build.dir / "model")
        processor.save_pretrained(build.dir / "model")
        return {"retrieval": found}


def words_digest() -> str:
    """Hash of the words in order of their token ids, on which the shipped weights depend."""
    return hashlib.sha256(" ".join(WORDS).encode()).hexdigest()[:16]


def load_shipped(processor: Any, folder: Path = ASSETS) -> Any:
    """The tiny CLIP with its shipped weights (stored in fp16), as float32, in evaluation mode.

    Raises UserError if they were trained on other words than the demo's.
    """
    import torch
    from safetensors import safe_open

    with torch.random.fork_rng(devices=[]):
        model = make_clip(processor.tokenizer)
    with safe_open(folder / "clip.safetensors", "pt") as stored:
        words = stored.metadata().get("words")
        state = {name: stored.get_tensor(name).float() for name in stored.keys()}  # noqa: SIM118
    if words != words_digest():
        raise UserError(
            "clip.safetensors was trained on other words than the demo has now: "
            "python -m coincide.models.pretrain_clip"
        )
    model.load_state_dict(state)
    return model.eval()


def retrieval(model: Any, processor: Any, scenes: int = 128, seed: int = 7) -> float:
    """Share of held-out scenes whose own caption is the nearest of all captions."""
    import numpy as np
    import torch

    rng = np.random.Generator(np.random.PCG64([seed, 1]))
    with torch.inference_mode():
        output = model(**captioned(rng, scenes, "test", processor))
    nearest = output.logits_per_image.argmax(dim=1)
    return round(float((nearest == torch.arange(scenes)).float().mean()), 4)
