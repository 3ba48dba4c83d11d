"""What a new signal may get wrong is told, not turned into other values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from coincide.config import FeaturePass
from coincide.features.extract import signal_step
from coincide.features.forward.contract import Captured, Tap
from coincide.features.passes.reference import ReferencePass, ReferenceSignal
from coincide.features.signals.hidden_mean import HiddenMean
from coincide.features.signals.visual_mean import VisualMean
from coincide.schema import UserError
from tests.features.conftest import Model, Source
from tests.features.test_extract import run_pass


@dataclass(frozen=True)
class Made(ReferenceSignal):
    """A signal with a fault: it has no tap, or reads what did not run, or more columns."""

    name: ClassVar[str] = "made"
    dtype: ClassVar[str] = "float32"
    fault: str = ""

    def width(self, hidden: int) -> int:
        return 2 if self.fault == "width" else 1

    def taps(self) -> Sequence[Tap]:
        return () if self.fault == "nothing" else VisualMean(0).taps()

    def read(self, captured: Captured) -> torch.Tensor:
        if self.fault == "last":
            captured.answer_logits()
        return torch.zeros(len(captured.labels), 1, dtype=torch.float64)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("nothing", r"signal made reads nothing of the model: its taps\(\) are empty"),
        ("last", r"reads the output of the model's last layer .* Set last_layer = True"),
        ("width", r"made: read\(\) gave values of shape \[\d+, 1\] .* width\(\) says 2 columns"),
    ],
)
def test_a_signal_with_a_fault_is_told_so(
    tmp_path: Path, source: Source, model: Model, fault: str, told: str
) -> None:
    """Not given other values in silence."""
    with pytest.raises(UserError, match=told):
        run_pass(tmp_path, source, model, (Made(fault),))


def test_a_signal_of_another_version_is_another_artifact(
    source: Source, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = ReferencePass(model, source, "float64", FeaturePass())
    keys = []
    for version in (1, 2):
        monkeypatch.setattr(HiddenMean, "version", version)
        keys.append(signal_step(HiddenMean(), over, data=source.step(), base=model.step()).key)
    assert keys[0] != keys[1]
