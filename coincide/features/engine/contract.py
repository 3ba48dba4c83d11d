"""The interface between the engine and a pass: what a model must offer so that signals come from
it.
"""

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
"""Computes one shard. Arguments: the shard's examples, and a callback to which the number of newly
finished rows is passed. Returns the values [n, D] of each signal, in the order of the signals, and
``valid`` bool [n]: False for a row without usable values."""


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

    def computer(
        self,
        signals: Sequence[Signal],
        folder: Path,
        dataset: Dataset,
        device: str,
        decoders: int,
    ) -> AbstractContextManager[Computer]:
        """A context in which shards can be computed: loads the model in ``folder`` on ``device``.

        ``dataset`` is the one the shards' examples belong to; ``decoders`` processes read and
        encode rows ahead of the model.
        """
        ...


def check_dtype(value: object, field: str) -> None:
    """Raise UserError, naming the configuration's ``field``, unless ``value`` is one of
    ``DTYPES``.
    """
    if value not in DTYPES:
        raise UserError(f"{field}={value!r}: the choices are {', '.join(DTYPES)}.")
