"""The trained parameters: LoRA on the language model's linears, and the whole projector."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coincide.schema import UserError
from train.recipe import Recipe

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from torch import nn

LANGUAGE_MODELS = ("language_model", "text_model")
"""Attribute names of the decoder in transformers models: most families, and Idefics."""
PROJECTORS = (
    "multi_modal_projector", "connector", "merger", "embed_vision", "aligner", "projector",
    "mm_projector", "vision_projection", "vision_adapter", "visual_embeddings_table",
    "layerwise_projectors", "spatial_projectors",
)  # fmt: skip
"""Attribute names of what lies between vision tower and decoder: LLaVA, Idefics, Qwen-VL, Gemma,
DeepSeek-VL and Janus, VideoLLaMA 3, Kimi, LightOn OCR, Muse, Ovis, Granite (two lists)."""
INSIDE = {"all": r".*\.", "attention": r"(?:.*\.)?[^.]*(?:attn|attention)[^.]*\.(?:.*\.)?"}
"""By ``Recipe.linears``: what stands between the decoder's name and the last part of a linear's."""
NO_DECAY = re.compile(r"bias|layernorm|rmsnorm|(^|[._])norm([._]|$)")


def target_modules(model: nn.Module, linears: str = "all") -> str:
    """A regular expression that matches the names of all ``Linear`` layers of the language model
    only, or of those of its ``attention``: inside a module named ``self_attn``, ``attention``, ...

    Vision tower, projector and ``lm_head`` are excluded, as in LLaVA's ``find_all_linear_names``.
    Raises UserError if the model has no language model, or no attention in it.
    """
    names = language_linears(model)
    if not names:
        parts = ", ".join(sorted({n.rpartition(".")[0] for n, _ in model.named_children()} | {""}))
        raise UserError(
            f"{type(model).__name__} has no linear layer under {' or '.join(LANGUAGE_MODELS)} "
            f"({parts}). LoRA finetuning expects an image-text-to-text model of transformers."
        )
    inside = rf"(?:.*\.)?{_decoder()}\.{INSIDE[linears]}"
    leaves = {name.rpartition(".")[2] for name in names if re.fullmatch(rf"{inside}[^.]+", name)}
    if not leaves:
        raise UserError(
            f"train.linears={linears}: {type(model).__name__} has no linear layer inside a module "
            f"of its decoder named ...attn... or ...attention...; it has "
            f"{', '.join(sorted(names)[:3])}. Set linears: all."
        )
    return rf"{inside}(?:{'|'.join(map(re.escape, sorted(leaves)))})"


def projectors_of(model: nn.Module) -> list[str]:
    """Names of the modules between vision tower and decoder, as PEFT is told them: a name's last
    part where no other module's name ends like it. Raises UserError if there are none.
    """
    from torch import nn

    named = dict(model.named_modules())
    found = outermost(named)
    if not found:
        raise UserError(
            f"{type(model).__name__}: expected a projector between vision tower and decoder, "
            f"named {', '.join(PROJECTORS)}; found none. Choose a model of another kind as target: "
            "docs/MODELS.md lists those that can be trained."
        )
    parts: list[str] = []
    for name in found:
        inside = named[name].named_children() if isinstance(named[name], nn.ModuleList) else ()
        parts += [f"{name}.{child}" for child, _ in inside] or [name]
    return [_shortest(name, named) for name in parts]


def outermost(names: Iterable[str]) -> list[str]:
    """The projectors among dotted module names: of those with a known name the outermost ones, so
    that a merger inside the tower is none where the model has a projector behind it.
    """
    known = [name for name in names if name.rpartition(".")[2] in PROJECTORS]
    depth = min((name.count(".") for name in known), default=0)
    return [name for name in known if name.count(".") == depth]


def _shortest(name: str, named: Iterable[str]) -> str:
    short = name.rpartition(".")[2]
    alone = sum(other.endswith(short) for other in named) == 1
    return short if alone and not short.isdigit() else name


def _decoder() -> str:
    return f"(?:{'|'.join(LANGUAGE_MODELS)})"


def language_linears(model: nn.Module) -> frozenset[str]:
    """Names of the linear layers of the language model, except its head."""
    from torch import nn

    inside = re.compile(rf"(?:.*\.)?{_decoder()}\.(.*\.)?(?!lm_head$)[^.]+")
    # a family's own kind of Linear (Llama 4's router) gives more than a product
    linears = (
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not type(module).__module__.startswith("transformers.")
    )
    return frozenset(name for name in linears if inside.fullmatch(name))


def fused_experts(model: nn.Module) -> frozenset[str]:
    """Names of the language model's weights of experts held as one tensor for all of them, which
    LoRA on linear layers does not reach.
    """
    inside = re.compile(rf"(?:.*\.)?{_decoder()}\..*experts\.[^.]+")
    weights = (name for name, weight in model.named_parameters() if weight.dim() == 3)
    return frozenset(name for name in weights if inside.fullmatch(name))


def keep_statistics(model: nn.Module) -> None:
    """Let batch normalisation (FastViT's) use the checkpoint's means and variances in training too.

    It would take them from the batch, so that a row's loss depends on the others, and would change
    the frozen tower, which no adapter holds.
    """
    from torch.nn.modules.batchnorm import _BatchNorm

    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
            module.train = lambda mode=True, own=module: own  # type: ignore[assignment,misc]


def add_lora(model: nn.Module, recipe: Recipe, *, base: str, keep_dtype: bool) -> PeftModel:
    """``model`` with LoRA adapters in its language model and a trainable copy of its projector.

    ``keep_dtype``: trainable weights keep the model's dtype (DeepSpeed keeps fp32 copies itself);
    otherwise they become fp32. ``base`` names the base model in the adapter's configuration.
    Initial weights are drawn from torch's global generator, which must be seeded before.
    """
    from peft import LoraConfig, get_peft_model

    keep_statistics(model)
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        bias="none",
        target_modules=target_modules(model, recipe.linears),
        modules_to_save=projectors_of(model),
    )
    adapted = get_peft_model(model, config, autocast_adapter_dtype=not keep_dtype)
    adapted.peft_config["default"].base_model_name_or_path = base
    if not keep_dtype:
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    return adapted


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Optimizer groups: the projector with its own learning rate; no decay on biases and norms.

    Order: LoRA with and without decay, projector with and without decay; empty groups are left out.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kind = (".modules_to_save." in name, NO_DECAY.search(name) is not None)
            groups.setdefault(kind, []).append(parameter)
    return [
        {
            "params": groups[projector, plain],
            "lr": recipe.projector_lr if projector else recipe.lr,
            "weight_decay": 0.0 if plain else recipe.weight_decay,
        }
        for projector, plain in sorted(groups)
    ]


def trainable_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Name -> trained tensor, on the CPU.

    Under ZeRO-3 a collective call: every rank must make it.
    """
    state = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            with _gathered(parameter):
                state[name] = parameter.detach().cpu().clone()
    return state


def save_adapter(model: PeftModel, state: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors`` (LoRA and projector) to
    ``folder``.
    """
    model.save_pretrained(str(folder), state_dict=dict(state), save_embedding_layers=False)


def _gathered(parameter: nn.Parameter) -> Any:
    if not hasattr(parameter, "ds_id"):
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([parameter])
