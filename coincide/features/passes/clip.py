"""Signals of CLIP (unit embeddings of images and texts) and the pass that computes them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

from coincide.config import FeaturePass
from coincide.features.engine.contract import Computer, SignalPass, WorkerSite
from coincide.features.forward.contract import EmbeddingSignal
from coincide.features.passes.embedding import EmbeddingPass
from coincide.schema import DataSource, Signal

TEXT_TOKENS = 77
"""Tokens to which CLIP pads or cuts every text."""


class ClipSignal(EmbeddingSignal):
    """A signal that is an embedding of CLIP, stored as float32."""

    model: ClassVar[str] = "clip"

    @classmethod
    def text_tokens(cls, signals: Sequence[Signal], text: float) -> float:
        return TEXT_TOKENS

    @classmethod
    def make_pass(cls, model: Any, source: DataSource, options: FeaturePass) -> SignalPass:
        return ClipPass(model, source, options)


class ClipPass(EmbeddingPass):
    """A pass of CLIP over a dataset. Picklable: it is sent to every worker."""

    group: ClassVar[str] = "clip"

    def columns(self, signals: Sequence[Any], folder: Path) -> list[int]:
        """Columns of each signal, by the width of an embedding."""
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        return [signal.width(int(config.projection_dim)) for signal in signals]

    def computer(
        self, signals: Sequence[Any], site: WorkerSite
    ) -> AbstractContextManager[Computer]:
        """Load CLIP once; see :class:`coincide.features.engine.contract.SignalPass`."""
        from coincide.features.forward.clip import clip_computer

        return clip_computer(self.model.dtype, self.options, signals, site)
