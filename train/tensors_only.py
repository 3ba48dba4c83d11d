"""Checkpoints are read as tensors and plain values, whoever wrote them: no pickle runs code.

Transformers reads its own files so. DeepSpeed's are read by ``torch.load(weights_only=False)``;
torch's own switch for the process overrules that, and the few classes that DeepSpeed's files name
(read off them by ``torch.serialization.get_unsafe_globals_in_checkpoint``) are allowed by name.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coincide.schema import UserError


@contextmanager
def tensors_only(checkpoint: str | None, zero_stage: int) -> Iterator[None]:
    """While inside, ``torch.load`` makes tensors and plain values alone.

    Raises :class:`UserError` naming ``checkpoint`` when it holds anything else.
    """
    import torch

    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)
    with torch.serialization.safe_globals(_deepspeeds() if zero_stage else []):
        try:
            yield
        except pickle.UnpicklingError as error:
            folder = Path(checkpoint or ".").parent
            raise UserError(
                f"{checkpoint} holds more than tensors and is not read: it could run code "
                f"({_first_line(error)}). Remove {folder} to start over."
            ) from error


def _deepspeeds() -> list[Any]:
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return [LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address]


def _first_line(error: Exception) -> str:
    """What torch says was found, without its advice to load it all the same."""
    lines = [line.strip() for line in str(error).splitlines()]
    telling = (line for line in lines if "Unsupported" in line or "GLOBAL" in line)
    return next(telling, "no sound file of torch").partition(". ")[0][:200]
