"""Signals of a vision tower (unit embeddings of pictures) and the pass that computes them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from coincide.config import FeaturePass
from coincide.features.engine.contract import Computer, SignalPass, WorkerSite, check_dtype
from coincide.features.forward.contract import EmbeddingSignal
from coincide.schema import ClipSource, DataSource


class VisionSignal(EmbeddingSignal):
    """A signal that is an embedding of a vision tower, stored as float32."""

    model: ClassVar[str] = "vision"
    dtype: ClassVar[str] = "float32"
    nan_allowed: ClassVar[bool] = True

    @classmethod
    def make_pass(cls, model: Any, source: DataSource, options: FeaturePass) -> SignalPass:
        return VisionPass(model, source, options)


@dataclass(frozen=True)
class VisionPass:
    """A pass of a vision tower over a dataset. Picklable: it is sent to every worker."""

    model: ClipSource
    source: DataSource
    options: FeaturePass
    group: ClassVar[str] = "vision"
    """Config group of the model."""

    def __post_init__(self) -> None:
        check_dtype(self.model.dtype, f"{self.group}.dtype")

    def config(self) -> dict[str, Any]:
        """What changes the values: the precision of the model."""
        return {"dtype": self.model.dtype}

    def columns(self, signals: Sequence[Any], folder: Path) -> list[int]:
        """Empty: only the loaded tower tells its width."""
        return []

    def computer(
        self, signals: Sequence[Any], site: WorkerSite
    ) -> AbstractContextManager[Computer]:
        """Load the tower once; see :class:`coincide.features.engine.contract.SignalPass`."""
        from coincide.features.forward.clip import tower_computer

        return tower_computer(self.model.dtype, self.options, signals, site)
