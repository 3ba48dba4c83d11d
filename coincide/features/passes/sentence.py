"""Signals of a text encoder (unit embeddings of texts) and the pass that computes them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from coincide.config import FeaturePass
from coincide.features.engine.contract import Computer, SignalPass, WorkerSite
from coincide.features.forward.contract import EmbeddingSignal
from coincide.features.passes.embedding import EmbeddingPass
from coincide.schema import DataSource


class SentenceSignal(EmbeddingSignal):
    """A signal that is an embedding of a text encoder, stored as float32."""

    model: ClassVar[str] = "sentence"

    @classmethod
    def make_pass(cls, model: Any, source: DataSource, options: FeaturePass) -> SignalPass:
        return SentencePass(model, source, options)


class SentencePass(EmbeddingPass):
    """A pass of a text encoder over a dataset. Picklable: it is sent to every worker."""

    group: ClassVar[str] = "sentence"

    def computer(
        self, signals: Sequence[Any], site: WorkerSite
    ) -> AbstractContextManager[Computer]:
        """Load the encoder once; see :class:`coincide.features.engine.contract.SignalPass`."""
        from coincide.features.forward.clip import text_computer

        return text_computer(self.model.dtype, self.options, signals, site)
