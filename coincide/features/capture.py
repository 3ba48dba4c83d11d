"""One forward pass of the reference model, and what signals need of it, captured by hooks.

No forked model: the attention outputs are read where any transformers decoder produces them,
at the attention module of ``layers[i]``, and pooled inside the hook, so a batch never holds
[L, B, T, H].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from coincide.features.signals import kind, layers_of
from coincide.models.encode import model_inputs
from coincide.schema import Signal, UserError


@dataclass
class Pass:
    """What one batch left behind. B rows, T tokens, H hidden width."""

    attention: Mapping[int, tuple[torch.Tensor, torch.Tensor]]
    """layer -> mean attention output over (visual, text) tokens, float64 [B, H] each."""
    attention_mask: torch.Tensor
    """int64 [B, T], 1 on real tokens."""
    labels: torch.Tensor
    """int64 [B, T], -100 off the answers, not shifted."""
    hidden: torch.Tensor
    """Output of the last layer after its norm, [B, T, H]; meaningless when layers were cut."""
    head: nn.Module

    def answer_logits(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [B, A+1, V] and labels [B, A+1] of the answer tokens alone.

        The head runs on the positions that predict an answer token, not on the whole sequence.
        The causal shift is kept: ``labels[:, j + 1]`` is what ``logits[:, j]`` predicts.
        """
        wanted = self.labels[:, 1:] != -100
        width = max(1, int(wanted.sum(dim=1).max()))
        order = torch.argsort(wanted.logical_not().to(torch.int8), dim=1, stable=True)[:, :width]
        hidden = torch.gather(
            self.hidden, 1, order.unsqueeze(-1).expand(-1, -1, self.hidden.shape[-1])
        )
        labels = torch.gather(self.labels[:, 1:], 1, order)
        blank = labels.new_full((len(labels), 1), -100)
        logits = self.head(hidden)
        padded = torch.cat([logits, logits.new_zeros(len(logits), 1, logits.shape[-1])], dim=1)
        return padded, torch.cat([blank, labels], dim=1)


ATTENTION = ("self_attn", "self_attention", "attention", "attn")
"""Names under which transformers' decoder blocks hold their attention."""


def decoder_of(model: Any) -> Any:
    """The decoder inside a transformers image-text model: the module whose ``layers`` are blocks.

    Raises UserError, naming the modules there are, where none is found.
    """
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    if not isinstance(getattr(decoder, "layers", None), nn.ModuleList):
        found = ", ".join(name for name, _ in decoder.named_children()) or "nothing"
        raise UserError(
            f"the decoder of {type(model).__name__}, {type(decoder).__name__}, has no list of "
            f"layers; it holds {found}. Expected a transformers image-text-to-text model such as "
            "LlavaForConditionalGeneration."
        )
    return decoder


def decoder_layers(model: Any) -> nn.ModuleList:
    """The blocks of the language model inside a transformers image-text model."""
    layers = decoder_of(model).layers
    assert isinstance(layers, nn.ModuleList)
    return layers


def attention_of(layers: nn.ModuleList, layer: int) -> nn.Module:
    """The attention module of block ``layer``; UserError, naming what it holds, where none is."""
    children = dict(layers[layer].named_children())
    for name in ATTENTION:
        if name in children:
            return children[name]
    having = [i for i, block in enumerate(layers) if any(hasattr(block, n) for n in ATTENTION)]
    raise UserError(
        f"layer {layer} of the reference model has no attention: {type(layers[layer]).__name__} "
        f"holds {', '.join(children)}. Layers with one of {', '.join(ATTENTION)}: {having}. "
        "Set reference.layers to some of those."
    )


def check_layers(signals: Sequence[Signal], depth: int) -> tuple[int, ...]:
    """The sorted union of the layers asked for; refuses one that a model of ``depth`` lacks."""
    layers = sorted({layer for signal in signals for layer in layers_of(signal)})
    beyond = [layer for layer in layers if not 0 <= layer < depth]
    if beyond:
        raise UserError(
            f"layers {beyond} do not exist: the reference model has layers 0 to {depth - 1}. "
            "Set reference.layers."
        )
    return tuple(layers)


@contextmanager
def shortened(model: Any, signals: Sequence[Signal]) -> Iterator[None]:
    """Leave out the layers after the last one needed while no output-side signal is asked for."""
    owner = decoder_of(model)
    layers = owner.layers
    wanted = check_layers(signals, len(layers))
    if not any(kind(signal).output_side for signal in signals):
        owner.layers = layers[: wanted[-1] + 1]
    try:
        yield
    finally:
        owner.layers = layers


def run(
    model: Any,
    batch: Mapping[str, torch.Tensor],
    signals: Sequence[Signal],
    images: Any = None,
) -> Pass:
    """Forward one collated ``batch`` (``coincide.models.encode.collate``) and capture.

    ``images``: what the vision tower gave for the batch (``coincide.features.vision``), if it ran.
    """
    layers = decoder_layers(model)
    masks = torch.stack((batch["image_mask"], batch["text_mask"]), dim=1)
    pooled: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def hook(layer: int) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            states = output[0] if isinstance(output, tuple) else output
            visual, text = _means(states, masks).unbind(dim=1)
            pooled[layer] = (visual, text)

        return keep

    handles = [
        attention_of(layers, layer).register_forward_hook(hook(layer))
        for layer in check_layers(signals, len(layers))
    ]
    inputs = forward_inputs(model, batch)
    if images is not None:
        inputs["mm_encoder_outputs"] = {"image": images}
        inputs = {k: v for k, v in inputs.items() if not k.startswith("pixel_")}
    try:
        output = model.base_model(**inputs, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    head = model.get_output_embeddings()
    return Pass(pooled, batch["attention_mask"], batch["labels"], output.last_hidden_state, head)


def forward_inputs(model: Any, batch: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """What of ``batch`` the model takes, pixels in its own precision."""
    return {
        name: value.to(model.dtype) if value.is_floating_point() else value
        for name, value in model_inputs(batch).items()
        if name != "labels"
    }


def _means(states: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Means of ``states`` [B, T, H] over the tokens of each of ``masks`` bool [B, M, T].

    float64 [B, M, H]; zero where a mask holds no token.
    """
    weights = masks.to(torch.float64)
    return torch.bmm(weights, states.double()) / weights.sum(dim=2, keepdim=True).clamp_min(1.0)
