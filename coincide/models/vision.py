"""Vision towers: any model of transformers that gives one vector per picture.

For example DINOv2, ViT, SigLIP, CLIP, ConvNeXt. Code that comes with a model is never run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from coincide.models.clip import HubClip
from coincide.models.hub import copy_model
from coincide.models.load import pretrained
from coincide.schema import UserError
from coincide.store import Build, Step

if TYPE_CHECKING:
    import torch

VERSION = 1
POOLER = "pooler."
"""Weights that some checkpoints lack because their embedding is the class token."""


@dataclass(frozen=True)
class HubVision(HubClip):
    """A published vision tower, unchanged, for ``conf/vision``."""

    kind: ClassVar[str] = "vision"
    """Its name in keys."""

    def step(self) -> Step:
        """The step that copies the model; its key contains the commit, or a folder's content."""
        config = {self.kind: self.checkpoint.identity()}
        return Step("model", self.name, VERSION, config, self._build)

    def _build(self, build: Build) -> Mapping[str, Any]:
        copy_model(self.checkpoint, build.dir / "model")
        return {"source": self.checkpoint.identity()}


@dataclass
class Tower:
    """A loaded vision tower. ``width``: columns D of an embedding."""

    model: Any
    pooled: bool
    """Whether its pooler was trained; else the class token is the embedding."""
    width: int

    @property
    def device(self) -> Any:
        """Device of the weights."""
        return self.model.device

    @property
    def dtype(self) -> Any:
        """Precision of the weights."""
        return self.model.dtype

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embeddings [n, D] of ``pixels`` [n, 3, H, W].

        Its projection if the model has a text side, else its pooler's output, else the first token
        after the last norm (the class token of DINO).
        """
        if hasattr(self.model, "get_image_features"):
            found: torch.Tensor = self.model.get_image_features(pixel_values=pixels).pooler_output
            return found
        output = self.model(pixel_values=pixels)
        if self.pooled and getattr(output, "pooler_output", None) is not None:
            found = output.pooler_output
        else:
            found = output.last_hidden_state[:, 0]
        return found.flatten(start_dim=1)


def load_tower(folder: Path, dtype: str, device: str) -> Tower:
    """The vision tower in ``folder`` (safetensors), in evaluation mode; ``dtype`` is a torch name.

    Raises :class:`UserError` for a model that transformers does not know, that does not take
    pictures, or that lacks weights of its own architecture.
    """
    import torch
    from transformers import AutoModel

    model, whole = pretrained(
        AutoModel,
        folder,
        getattr(torch, dtype),
        device,
        what="vision tower",
        expected="a model of pictures that transformers itself knows, such as "
        "facebook/dinov2-base, with safetensors weights",
        may_lack=POOLER,
    )
    tower = Tower(model, whole, 0)
    tower.width = _width(tower, folder)
    return tower


def load_image_processor(folder: Path) -> Any:
    """The image processor for the tower in ``folder``, with PIL.

    Raises UserError if it does not load.
    """
    from transformers import AutoImageProcessor

    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        return AutoImageProcessor.from_pretrained(folder, backend="pil", **options)
    except (ImportError, ValueError, OSError, KeyError) as error:
        raise UserError(
            f"the image processor in {folder} does not load: {error}\nExpected a "
            "preprocessor_config.json that transformers itself knows."
        ) from error


def _width(tower: Tower, folder: Path) -> int:
    """Columns of an embedding, measured with a grey picture."""
    import torch
    from PIL import Image

    picture = Image.new("RGB", (64, 64), (127, 127, 127))
    pixels = load_image_processor(folder)([picture], return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        found = tower(pixels.to(tower.device, tower.dtype))
    return int(found.shape[1])
