"""Load checkpoints as tensors and plain values only, so that no pickle can run code.

Transformers loads its own files this way. DeepSpeed calls ``torch.load(weights_only=False)``;
torch's switch for the process overrides that, and the few classes in DeepSpeed's files (found with
``torch.serialization.get_unsafe_globals_in_checkpoint``) are allowed by name.
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
    """In this context ``torch.load`` only makes tensors and plain values.

    Raises :class:`UserError`, naming ``checkpoint``, if it holds anything else.
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
    """The first line of torch's message, without its advice to load the file nevertheless."""
    lines = [line.strip() for line in str(error).splitlines()]
    telling = (line for line in lines if "Unsupported" in line or "GLOBAL" in line)
    return next(telling, "no sound file of torch").partition(". ")[0][:200]
