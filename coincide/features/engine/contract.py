"""The interface between the engine and a pass: what a model must offer so that signals come from
it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from coincide.config import FeaturePass
from coincide.schema import Dataset, DataSource, Example, Signal, SignalModel, UserError

DTYPES = ("bfloat16", "float16", "float32", "float64")
"""Precisions of a pass. All run with PyTorch's fused attention (SDPA)."""

Computer = Callable[[Sequence[Example], Callable[[int], None]], tuple[list[np.ndarray], np.ndarray]]
"""Computes one shard. Arguments: the shard's examples, and a callback to which the number of newly
finished rows is passed. Returns the values [n, D] of each signal, in the order of the signals, and
``valid`` bool [n]: False for a row without usable values."""


@dataclass(frozen=True)
class WorkerSite:
    """Where and on what one worker computes a pass."""

    model: Path
    """The folder that the model is loaded from."""
    dataset: Dataset
    """That of the shards' examples."""
    device: str
    """``cpu``, ``cuda:0``, ..."""
    decoders: int
    """Processes that read rows ahead of the model."""


class SignalPass(Protocol):
    """A pass of one model over one dataset that computes several signals together."""

    @property
    def model(self) -> SignalModel: ...
    @property
    def source(self) -> DataSource: ...
    @property
    def options(self) -> FeaturePass: ...
    def config(self) -> dict[str, Any]:
        """What changes the values, besides model and data, as JSON.

        Goes into the artifact's key.
        """
        ...

    def columns(self, signals: Sequence[Signal], folder: Path) -> list[int]:
        """Columns of each signal, read off the configuration of the model in ``folder``; empty if
        only the loaded model tells.
        """
        ...

    def computer(
        self, signals: Sequence[Signal], site: WorkerSite
    ) -> AbstractContextManager[Computer]:
        """A context in which shards can be computed: loads the model as ``site`` says, and starts
        the processes that read and encode rows ahead of it.
        """
        ...


def check_dtype(value: object, field: str) -> None:
    """Raise UserError, naming the configuration's ``field``, unless ``value`` is one of
    ``DTYPES``.
    """
    if value not in DTYPES:
        raise UserError(f"{field}={value!r}: the choices are {', '.join(DTYPES)}.")
