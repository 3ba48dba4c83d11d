"""Signals of a vision tower (unit embeddings of pictures) and the pass that computes them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from coincide.config import FeaturePass
from coincide.features.engine.contract import Computer, SignalPass, WorkerSite
from coincide.features.forward.contract import EmbeddingSignal
from coincide.features.passes.embedding import EmbeddingPass
from coincide.schema import DataSource, Signal


class VisionSignal(EmbeddingSignal):
    """A signal that is an embedding of a vision tower, stored as float32."""

    model: ClassVar[str] = "vision"

    @classmethod
    def text_tokens(cls, signals: Sequence[Signal], text: float) -> float:
        return 0

    @classmethod
    def make_pass(cls, model: Any, source: DataSource, options: FeaturePass) -> SignalPass:
        return VisionPass(model, source, options)


class VisionPass(EmbeddingPass):
    """A pass of a vision tower over a dataset. Picklable: it is sent to every worker."""

    group: ClassVar[str] = "vision"

    def computer(
        self, signals: Sequence[Any], site: WorkerSite
    ) -> AbstractContextManager[Computer]:
        """Load the tower once; see :class:`coincide.features.engine.contract.SignalPass`."""
        from coincide.features.forward.clip import tower_computer

        return tower_computer(self.model.dtype, self.options, signals, site)
