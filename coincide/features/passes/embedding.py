"""A pass of an encoder (a model that embeds pictures or texts), for the encoders of this folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from coincide.config import FeaturePass
from coincide.features.engine.contract import Computer, WorkerSite, check_dtype
from coincide.schema import DataSource, EncoderSource


@dataclass(frozen=True)
class EmbeddingPass(ABC):
    """A pass of an encoder over a dataset. Picklable: it is sent to every worker.

    Raises UserError for a precision that no pass runs in.
    """

    model: EncoderSource
    source: DataSource
    options: FeaturePass
    group: ClassVar[str]
    """Name of the model in the configuration, for messages."""

    def __post_init__(self) -> None:
        check_dtype(self.model.dtype, f"{self.group}.dtype")

    def config(self) -> dict[str, Any]:
        """What changes the values: the precision of the model."""
        return {"dtype": self.model.dtype}

    def columns(self, signals: Sequence[Any], folder: Path) -> list[int]:
        """Empty: only the loaded encoder tells its width."""
        return []

    @abstractmethod
    def computer(
        self, signals: Sequence[Any], site: WorkerSite
    ) -> AbstractContextManager[Computer]:
        """Load the encoder once; see :class:`coincide.features.engine.contract.SignalPass`."""
