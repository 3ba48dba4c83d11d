"""LoRA's linears as one product: x (W + s B A)ᵀ instead of x Wᵀ + s (x Aᵀ) Bᵀ."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.lora.layer import Linear
from torch.nn.functional import linear

if TYPE_CHECKING:
    from peft import PeftModel


def merge_products(model: PeftModel, adapter: str = "default") -> None:
    """Let every adapted linear of ``model`` multiply its input once, by the sum of its weights.

    The sum is formed anew in each forward pass, and gradients reach A and B through it: the same
    function with the same gradients, rounded elsewhere. It spares a pass over the activations for
    each of the adapter's products, its scaling and its sum, and costs a gradient of W's size: a
    gain where a layer is narrow, a loss where it is wide. ``train.recipe`` refuses what would give
    another function (dropout) or other roundings (half precision, quantized or sharded weights).
    """
    for module in model.modules():
        if isinstance(module, Linear):
            module.forward = partial(_merged, module, adapter)  # type: ignore[method-assign]


def _merged(module: Linear, adapter: str, x: torch.Tensor) -> torch.Tensor:
    base: Any = module.get_base_layer()
    down: Any = module.lora_A[adapter].weight
    up: Any = module.lora_B[adapter].weight
    weight = torch.addmm(base.weight, up, down, alpha=module.scaling[adapter])
    return linear(x, weight, base.bias)
