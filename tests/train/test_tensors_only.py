"""A checkpoint of a shared store is data: what it would call when unpickled is not called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from coincide.schema import UserError
from train.tensors_only import tensors_only


class Touch:
    """Unpickled by the ordinary loader it makes an empty file, which is all."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.fixture(autouse=True)
def _switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0")


def load_as_deepspeed_does(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=False)


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_an_object_in_a_checkpoint_is_not_made(tmp_path: Path, zero_stage: int) -> None:
    file = tmp_path / "checkpoints" / "checkpoint-4" / "optim_states.pt"
    file.parent.mkdir(parents=True)
    torch.save({"a": torch.ones(2), "evil": Touch(tmp_path / "touched")}, file)
    says = rf"checkpoint-4 holds more than tensors.*Unsupported global.*Remove {file.parent.parent}"
    with pytest.raises(UserError, match=says), tensors_only(str(file.parent), zero_stage):
        load_as_deepspeed_does(file)
    assert not (tmp_path / "touched").exists()


def test_what_deepspeed_writes_is_read(tmp_path: Path) -> None:
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    state = {
        "loss_scaler": LossScaler(1.0),
        "stage": ZeroStageEnum.gradients,
        "fragment": fragment_address(3, 4),
        "exp_avg": torch.ones(2),
    }
    torch.save(state, tmp_path / "optim_states.pt")
    with tensors_only(str(tmp_path), 2):
        found = load_as_deepspeed_does(tmp_path / "optim_states.pt")
    assert found["fragment"] == fragment_address(3, 4) and found["stage"] == state["stage"]
