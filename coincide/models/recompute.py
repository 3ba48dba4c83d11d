"""Activations that are computed again in the backward pass instead of being kept."""

from __future__ import annotations

from typing import Any


def checkpoint_layers(network: Any) -> None:
    """Recompute the layers' activations in the backward pass.

    Transformers only checkpoints layers in training mode; their submodules stay in evaluation mode,
    so that there is no dropout.
    """
    network.activation_checkpointing_enable({"use_reentrant": False})
    for module in network.modules():
        if getattr(module, "gradient_checkpointing", False):
            module.training = True
