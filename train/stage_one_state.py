"""The state of Self-Filter's stage 1 in one safetensors file, written atomically, without
pickle.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from coincide.system.files import write_atomic

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""AdamW's state for one parameter."""


@dataclass
class Progress:
    """What a stopped stage 1 needs in order to resume exactly."""

    taught: np.ndarray
    """bool [N]: rows that took part in a step."""
    batches: int = 0
    """Batches done, including empty ones."""
    size: int = 0
    """Examples per forward pass; less than a batch once memory has run out."""
    log: list[dict[str, float]] = field(default_factory=list)
    """One record per step."""


def save(
    path: Path, parts: ModuleParts, optimizer: torch.optim.Optimizer, progress: Progress
) -> None:
    """Write weights, AdamW's moments and ``progress`` to ``path``, atomically."""
    tensors = {"taught": torch.from_numpy(progress.taught)}
    for name, parameter in _trained(parts):
        tensors[name] = parameter.detach()
        state = optimizer.state.get(parameter, {})
        tensors.update({f"{name}:{moment}": state[moment] for moment in MOMENTS if state})
    said = {"batches": progress.batches, "size": progress.size, "log": progress.log}
    metadata = {"progress": json.dumps(said)}
    write_atomic(path, lambda temporary: save_file(tensors, temporary, metadata=metadata))


def load(path: Path, parts: ModuleParts, optimizer: torch.optim.Optimizer) -> Progress:
    """Load weights and moments into ``parts`` and ``optimizer``; returns the progress."""
    with safe_open(path, framework="pt") as file, torch.no_grad():
        names = set(file.keys())
        for name, parameter in _trained(parts):
            parameter.copy_(file.get_tensor(name))
            if f"{name}:step" in names:
                state = {moment: file.get_tensor(f"{name}:{moment}") for moment in MOMENTS}
                moments = {m: state[m].to(parameter.device) for m in MOMENTS[1:]}
                optimizer.state[parameter] = {"step": state["step"], **moments}
        said = json.loads(file.metadata()["progress"])
        return Progress(file.get_tensor("taught").numpy(), **said)


ModuleParts = dict[str, torch.nn.Module]
"""Name -> trained module."""


def _trained(parts: ModuleParts) -> Iterator[tuple[str, Any]]:
    for part, module in parts.items():
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                yield f"{part}.{name}", parameter
