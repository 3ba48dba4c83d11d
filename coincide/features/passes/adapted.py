"""Signals of a warmed-up target, and the passes that compute them: of its gradients, forward and
backward, and of what a forward pass captures.

One pass reads all adapters of a warm-up: the base is loaded once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
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
from coincide.schema import AdaptedSignal, DataSource, ModelSource
from coincide.store.artifact import find_recorded, open_artifact


@dataclass(frozen=True)
class GradientSignal(AdaptedSignal, ABC):
    """A signal read off the gradient of a row's loss by the adapter's LoRA parameters."""

    passes: ClassVar[int] = 2  # forward and back to the activations: no weight has a gradient

    @abstractmethod
    def reading(self) -> Any:
        """What is read, a ``coincide.features.forward.gradients.GradientReading``."""

    @classmethod
    def make_pass(cls, model: Any, source: DataSource, options: FeaturePass) -> SignalPass:
        return AdaptedPass(model, source, model.dtype, options)


@dataclass(frozen=True)
class AdaptedForwardSignal(AdaptedSignal, ForwardSignal, ABC):
    """A signal read off a forward pass, as those of the reference model are."""

    @classmethod
    def make_pass(cls, model: Any, source: DataSource, options: FeaturePass) -> SignalPass:
        return AdaptedForwardPass(model, source, model.dtype, options)


@dataclass(frozen=True)
class AdaptedPass:
    """A forward and backward pass of a base with the adapters of a warm-up. Picklable: it is sent
    to every worker.
    """

    model: ModelSource
    source: DataSource
    dtype: str
    """Precision of the base; part of the key."""
    options: FeaturePass

    def __post_init__(self) -> None:
        check_dtype(self.dtype, "target.dtype")

    def config(self) -> dict[str, Any]:
        """What changes the values: precision, conversation template and maximum length."""
        return {
            "template": encoding_of(self.model.template),
            "max_length": self.model.max_length,
            "dtype": self.dtype,
        }

    def columns(self, signals: Sequence[Any], folder: Path) -> list[int]:
        """Columns of each signal, by the shapes of the first adapter in ``folder``."""
        from coincide.features.forward.adapted import matrices_of
        from coincide.models.tuned import read_adapter

        matrices = matrices_of(read_adapter(min(folder.glob("at-*"))))
        return [signal.reading().columns(matrices) for signal in signals]

    def computer(
        self, signals: Sequence[Any], site: WorkerSite
    ) -> AbstractContextManager[Computer]:
        """Load base and adapters once; see ``coincide.features.engine.contract.SignalPass``."""
        from coincide.features.forward.gradients import gradient_computer

        drop = policies_of(self.source).on_bad_row == "drop"
        return gradient_computer(
            self.model,
            base_of(site.model.parent) / "model",
            self.dtype,
            self.options,
            [signal.reading() for signal in signals],
            site,
            drop_refused=drop,
        )


@dataclass(frozen=True)
class AdaptedForwardPass(AdaptedPass):
    """A forward pass of a base with each adapter of a warm-up that a signal asks for."""

    def columns(self, signals: Sequence[Any], folder: Path) -> list[int]:
        """Columns of each signal, by the width of the language model."""
        from transformers import AutoConfig

        base = AutoConfig.from_pretrained(base_of(folder.parent) / "model", local_files_only=True)
        return [signal.width(base.get_text_config().hidden_size) for signal in signals]

    def computer(
        self, signals: Sequence[Any], site: WorkerSite
    ) -> AbstractContextManager[Computer]:
        """Load base and adapters once; see ``coincide.features.engine.contract.SignalPass``."""
        from coincide.features.forward.adapted_rows import adapted_computer

        base = base_of(site.model.parent) / "model"
        drop = policies_of(self.source).on_bad_row == "drop"
        return adapted_computer(
            self.model, base, self.dtype, self.options, signals, site, drop_refused=drop
        )


def base_of(warmup: Path) -> Path:
    """The artifact of the base that the warm-up artifact in ``warmup`` was trained on."""
    [(place, name)] = [
        (place, name)
        for place, name in open_artifact(warmup).manifest["needs"].items()
        if place.startswith("needs.0.")
    ]
    found = find_recorded(warmup.parent.parent, f"{place.rpartition('.')[2]}/{name}")
    assert found is not None, f"the base of {warmup} is not in the store"
    return found
