"""What a feature pass and its signals cannot do is refused, by name and with the choices."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from coincide.config import FeaturePass
from coincide.features.passes.reference import ReferencePass
from coincide.features.signals.activations import Activations
from coincide.features.signals.gradients import Gradients
from coincide.features.signals.hidden_last import HiddenLast
from coincide.schema import UserError
from tests.features.adapted import WARM
from tests.features.conftest import Model, Source
from tests.features.test_extract import run_pass


def test_blocks_without_readable_weights_or_neurons_are_refused_by_name() -> None:
    from coincide.features.forward.attention import attention_hooks
    from coincide.features.forward.capture import neurons_of

    class Attention(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    own = Attention()
    none = pytest.raises(UserError, match="weights of Attention cannot be read: it has no config")
    with none, attention_hooks({own: print}):
        pass
    own.config = SimpleNamespace(_attn_implementation="sdpa")  # type: ignore[assignment]
    before = own.config
    other = pytest.raises(UserError, match="cannot be read: it has an attention function of its")
    with other, attention_hooks({own: print}):
        own(torch.zeros(1))
    assert own.config is before
    block = nn.Module()
    block.mlp = nn.ModuleDict({"experts": nn.Linear(2, 2)})
    with pytest.raises(UserError, match=r"layer 0 .*holds mlp \(ModuleDict\).*plain feed-forward"):
        neurons_of(nn.ModuleList([block]), 0)


def test_a_layer_that_does_not_exist_is_refused(
    tmp_path: Path, source: Source, model: Model
) -> None:
    with pytest.raises(UserError, match=r"layers \[2\] do not exist.*layers 0 to 1"):
        run_pass(tmp_path, source, model, (Activations((0, 2)),))


@pytest.mark.parametrize("dtype", ["bf16", "int8", None, 32])
def test_a_precision_that_is_none_is_refused(source: Source, model: Model, dtype: object) -> None:
    with pytest.raises(UserError, match=r"reference.dtype=.*: the choices are bfloat16, float16"):
        ReferencePass(model, source, dtype, FeaturePass())  # type: ignore[arg-type]


def test_an_overflow_names_the_rows(
    tmp_path: Path, source: Source, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HiddenLast, "read", lambda s, run: torch.full((len(run.labels), 32), 1e6))
    with pytest.raises(UserError, match=r"hidden_last: NaN or infinite values in rows \["):
        run_pass(tmp_path, source, model, (HiddenLast(),))


def test_what_gradients_do_not_have_is_refused() -> None:
    for wrong in ({"kind": "lion"}, {"loss": "max"}, {"projection": "x"}, {"dimension": 0},
                  {"at": 2}):  # fmt: skip
        with pytest.raises(UserError, match=str(next(iter(wrong)))):
            Gradients(WARM, **wrong)  # type: ignore[arg-type]
