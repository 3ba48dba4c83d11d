"""A rank on a pretend GPU: ``python small_memory.py recipe.json``.

After its first checkpoint, more examples than ``FITS`` at a time run out of memory, on the last
rank alone: the others find out by themselves.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch

from train import worker
from train.trainer import LoraTrainer

FITS = 2


def limited(self: LoraTrainer, model: Any, inputs: dict[str, Any], *rest: Any, **named: Any) -> Any:
    last = int(os.environ.get("RANK", "0")) == int(os.environ.get("WORLD_SIZE", "1")) - 1
    if last and self.state.global_step >= 5 and self.job.micro_batch > FITS:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    return training_step(self, model, inputs, *rest, **named)


training_step = LoraTrainer.training_step
LoraTrainer.training_step = limited  # type: ignore[method-assign]

if __name__ == "__main__":
    worker.end(worker.main(Path(sys.argv[1])))
