"""What a warm-up keeps at a step: the adapter, and Adam's moments by the names of its tensors.

With ZeRO the moments lie in flat parts on the ranks, cut without regard to parameters; DeepSpeed
gives each parameter's whole. Read by name, they serve however many ranks there were.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coincide.models.tuned import MOMENTS
from coincide.system.files import fsync
from train.job import TrainingJob
from train.lora import save_adapter, trainable_state

if TYPE_CHECKING:
    import torch
    from torch import nn

NAMES = ("exp_avg", "exp_avg_sq")
"""Torch's names of Adam's first and second moment."""


def keep(job: TrainingJob, step: int, model: Any, optimizer: Any) -> None:
    """Write adapter and moments after optimizer step ``step``; a collective call of all ranks."""
    adapted = getattr(model, "module", model)  # DeepSpeed's engine, or DDP, around it
    adapter, moments = trainable_state(adapted), moments_of(adapted, optimizer)
    import torch

    if torch.distributed.is_initialized() and torch.distributed.get_rank():
        return
    folder = job.kept(step)
    begun = folder.with_name(f".{folder.name}")
    for old in (begun, folder):
        shutil.rmtree(old, ignore_errors=True)
    begun.mkdir(parents=True)
    save_adapter(adapted, adapter, begun)
    _save(moments, begun / MOMENTS)
    for file in begun.iterdir():
        fsync(file)
    begun.rename(folder)


def moments_of(model: nn.Module, optimizer: Any) -> dict[str, torch.Tensor]:
    """``<tensor>.exp_avg`` and ``<tensor>.exp_avg_sq`` of every trained tensor, float32 on the CPU,
    by the tensor's name in the adapter's file. A collective call under ZeRO.
    """
    _link_states(optimizer)
    found: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            for moment in NAMES:
                value = _moment(parameter, moment, optimizer)
                if value is not None:  # None: it never had a gradient
                    found[f"{in_file(name)}.{moment}"] = value.detach().float().cpu().clone()
    return found


def in_file(name: str) -> str:
    """The name in the adapter's file of the parameter ``name`` of a PEFT model."""
    return name.replace(".modules_to_save.default", "").replace(".default.", ".")


def _link_states(optimizer: Any) -> None:
    """Tell DeepSpeed (ZeRO 1 and 2) where every parameter's moments lie: it looks after the first
    step of the first parameter group, when the others have none (0.19.8;
    findings/deepspeed_second_group_states.sh).
    """
    zero = getattr(optimizer, "optimizer", optimizer)
    if hasattr(zero, "bit16_groups") and hasattr(zero, "single_partition_of_fp32_groups"):
        from deepspeed.utils import lazy_init_hp_params_optimizer_state

        for parameters, part in zip(
            zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True
        ):
            lazy_init_hp_params_optimizer_state(parameters, part, zero.optimizer.state)


def _moment(parameter: Any, moment: str, optimizer: Any) -> Any:
    if hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping"):
        from deepspeed.utils import safe_get_full_optimizer_state

        return safe_get_full_optimizer_state(parameter, moment)
    inner = getattr(optimizer, "optimizer", optimizer)  # accelerate's around torch's
    return inner.state.get(parameter, {}).get(moment)


def _save(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
