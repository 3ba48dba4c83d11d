"""The mean of the weights over the last steps (``average`` of the recipe), not the last ones.

Averaging the end of a run takes out much of what the order of its last batches leaves in the
weights (Polyak and Juditsky 1992; Izmailov et al. 2018): one run is nearer to what its rows teach.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from train.lora import trainable_state

NAME = "average.safetensors"
COUNT = "steps"


class TailAverage(TrainerCallback):
    """Callback that keeps the mean of the trained weights over the last ``share`` of the steps.

    Every rank takes part, since ZeRO-3 gathers weights; the sum is in fp64, of which checkpoints
    hold a copy.
    """

    def __init__(self, model: Any, share: float, resume_from: str | None = None) -> None:
        self.model, self.share = model, share
        self.steps = 0
        """Steps in the mean so far."""
        self._sum: dict[str, torch.Tensor] = {}
        saved = Path(resume_from) / NAME if resume_from else None
        if saved is not None and saved.is_file():
            self._sum = load_file(saved)
            self.steps = int(self._sum.pop(COUNT))

    def state(self) -> dict[str, torch.Tensor]:
        """Name -> mean, on the CPU, in the dtype of the weights; the weights themselves before the
        first step counts. A collective call under ZeRO-3."""
        now = trainable_state(self.model)
        if not self.steps:
            return now
        return {name: (self._sum[name] / self.steps).to(now[name].dtype) for name in now}

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Add the weights, if the step is one of the last."""
        if state.global_step <= state.max_steps - max(1, math.ceil(self.share * state.max_steps)):
            return
        self.steps += 1
        for name, tensor in trainable_state(self.model).items():
            held = self._sum.get(name)
            self._sum[name] = tensor.double() if held is None else held.add_(tensor)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the sum into the checkpoint; called before it is marked as complete."""
        if state.is_world_process_zero and self.steps:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            save_file({**self._sum, COUNT: torch.tensor(self.steps)}, folder / NAME)
