"""Signals of the reference model and the pass that computes them.

A signal is a subclass of :class:`ReferenceSignal` in a file of its own. It names the decoder blocks
that it reads as ``Tap`` (a hook reduces the states at once, so a batch never holds all layers),
says whether it needs the output of the last layer, and computes its values from what the pass
captured (``coincide.features.forward.contract``).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from coincide.config import FeaturePass
from coincide.data.report import policies_of
from coincide.features.engine.contract import Computer, SignalPass, WorkerSite, check_dtype
from coincide.features.forward.contract import ForwardSignal
from coincide.models.template import encoding_of
from coincide.schema import DataSource, ModelSource


class ReferenceSignal(ForwardSignal):
    """A signal computed from the reference model's forward pass."""

    model: ClassVar[str] = "reference"

    @classmethod
    def make_pass(cls, model: Any, source: DataSource, options: FeaturePass) -> SignalPass:
        return ReferencePass(model, source, model.dtype, options)


@dataclass(frozen=True)
class ReferencePass:
    """A forward pass of the reference model over a dataset.

    Picklable: it is sent to every worker.
    """

    model: ModelSource
    source: DataSource
    dtype: str
    """Precision of the model, a torch name; part of the key."""
    options: FeaturePass

    def __post_init__(self) -> None:
        check_dtype(self.dtype, "reference.dtype")

    def config(self) -> dict[str, Any]:
        """What changes the values: precision, conversation template and maximum length."""
        return {
            "template": encoding_of(self.model.template),
            "max_length": self.model.max_length,
            "dtype": self.dtype,
        }

    def columns(self, signals: Sequence[Any], folder: Path) -> list[int]:
        """Columns of each signal, by the width of the language model."""
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        return [signal.width(config.get_text_config().hidden_size) for signal in signals]

    def computer(
        self, signals: Sequence[Any], site: WorkerSite
    ) -> AbstractContextManager[Computer]:
        """Load the model once; see :class:`coincide.features.engine.contract.SignalPass`."""
        from coincide.features.forward.rows import reference_computer

        drop = policies_of(self.source).on_bad_row == "drop"
        return reference_computer(
            self.model, self.dtype, self.options, signals, site, drop_refused=drop
        )
