"""What the engine asks of a pass: the interface to the models that signals come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from coincide.config import FeaturePass
from coincide.schema import Dataset, DataSource, Example, Signal, SignalModel, UserError

DTYPES = ("bfloat16", "float16", "float32", "float64")
"""Precisions of a pass. All run with PyTorch's fused attention (SDPA)."""

Computer = Callable[[Sequence[Example], Callable[[int], None]], tuple[list[np.ndarray], np.ndarray]]
"""Computes one shard. Takes its examples and a callback that is told how many rows were added;
returns the values [n, D] of each signal, in the order of the signals, and valid bool [n]."""


class SignalPass(Protocol):
    """A pass of one model over one dataset that yields several signals together."""

    @property
    def model(self) -> SignalModel: ...
    @property
    def source(self) -> DataSource: ...
    @property
    def options(self) -> FeaturePass: ...
    def config(self) -> dict[str, Any]:
        """What of the pass, besides model and data, changes the values. Goes into the key."""
        ...

    def computer(
        self,
        signals: Sequence[Signal],
        folder: Path,
        dataset: Dataset,
        device: str,
        decoders: int,
    ) -> AbstractContextManager[Computer]:
        """Load the model in ``folder`` once on ``device``, with ``decoders`` processes that read
        rows ahead of it."""
        ...


def check_dtype(value: object, field: str) -> None:
    """Raise UserError, naming ``field``, if ``value`` is no precision of a pass."""
    if value not in DTYPES:
        raise UserError(f"{field}={value!r}: the choices are {', '.join(DTYPES)}.")
