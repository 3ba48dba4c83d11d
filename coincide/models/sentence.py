"""Text encoders: any model of transformers that gives one vector per sentence, such as MiniLM.

Code that comes with a model is never run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from coincide.models.load import pretrained
from coincide.models.vision import HubVision
from coincide.schema import UserError

if TYPE_CHECKING:
    import torch

POOLER = "pooler."
"""Weights that a mean over tokens does not use."""
LIMIT = 256
"""Most tokens of a sentence, as for all-MiniLM-L6-v2."""


@dataclass(frozen=True)
class HubSentence(HubVision):
    """A published text encoder, unchanged, for ``conf/sentence``."""

    kind: ClassVar[str] = "sentence"


@dataclass
class TextEncoder:
    """A loaded text encoder with its tokenizer."""

    model: Any
    tokenizer: Any

    @property
    def device(self) -> Any:
        """Device of the weights."""
        return self.model.device

    @property
    def width(self) -> int:
        """Columns D of an embedding."""
        config = self.model.config
        return int(getattr(config, "projection_dim", None) or config.hidden_size)

    @property
    def limit(self) -> int:
        """Most tokens of a text."""
        config = getattr(self.model.config, "text_config", self.model.config)
        places = getattr(config, "max_position_embeddings", None) or LIMIT
        return min(LIMIT, places, self.tokenizer.model_max_length)

    def __call__(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Embeddings [n, D] of a tokenized batch: the projection of a model with an image side,
        else the mean of the last states over the tokens that are no padding.
        """
        if hasattr(self.model, "get_text_features"):
            found: torch.Tensor = self.model.get_text_features(**batch).pooler_output
            return found
        states = self.model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1).to(states.dtype)
        mean: torch.Tensor = (states * mask).sum(dim=1) / mask.sum(dim=1)
        return mean


def load_text_encoder(folder: Path, dtype: str, device: str) -> TextEncoder:
    """The text encoder in ``folder`` (safetensors), in evaluation mode; ``dtype`` is a torch name.

    Raises :class:`UserError` for a model or tokenizer that transformers does not know, or that
    lacks weights of its own architecture.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer

    model, _ = pretrained(
        AutoModel,
        folder,
        getattr(torch, dtype),
        device,
        what="text encoder",
        expected="a model of text that transformers itself knows, such as "
        "sentence-transformers/all-MiniLM-L6-v2, with safetensors weights",
        may_lack=POOLER,
    )
    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    except (ImportError, ValueError, OSError, KeyError) as error:
        raise UserError(
            f"the tokenizer in {folder} does not load: {error}\nExpected one that transformers "
            "itself knows."
        ) from error
    return TextEncoder(model, tokenizer)
