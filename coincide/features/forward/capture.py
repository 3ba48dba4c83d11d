"""One forward pass of the reference model; hooks capture what the signals need of it.

The model's code is not changed: states are read with forward hooks at the decoder blocks of any
transformers model, or at their attention modules, and reduced inside the hook, so that a batch
never holds [L, B, T, H].
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from coincide.features.forward.attention import Weights, attention_hooks
from coincide.features.forward.contract import Captured, ForwardSignal, Tap
from coincide.features.forward.packed import Packed
from coincide.features.forward.prefix import Prefix
from coincide.models.decoder import decoder_of, last_states
from coincide.models.encode import model_inputs
from coincide.models.head import own_logits
from coincide.schema import UserError

ATTENTION = ("self_attn", "self_attention", "attention", "attn")
"""Attribute names under which transformers' decoder blocks hold their attention module."""
FEED_FORWARD = ("mlp", "feed_forward", "ffn")
LAST = ("down_proj", "fc2", "c_proj", "dense_4h_to_h", "w2")
"""Attribute names of the feed-forward part of a block, and of the last projection in it."""


def decoder_layers(model: Any) -> nn.ModuleList:
    """The blocks of the language model inside a transformers image-text model."""
    layers = decoder_of(model).layers
    assert isinstance(layers, nn.ModuleList)
    return layers


def attention_of(layers: nn.ModuleList, layer: int) -> nn.Module:
    """The attention module of block ``layer``.

    Raises UserError, naming the block's children, where none is found.
    """
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


def neurons_of(layers: nn.ModuleList, layer: int) -> nn.Module:
    """The last projection of the feed-forward part of block ``layer``: its inputs are the neurons.

    Raises UserError, naming what the block holds, for one without, such as a mixture of experts.
    """
    found = dict(layers[layer].named_modules())
    for part in FEED_FORWARD:
        for last in LAST:
            if isinstance(found.get(f"{part}.{last}"), nn.Module):
                return found[f"{part}.{last}"]
    held = ", ".join(f"{n} ({type(m).__name__})" for n, m in layers[layer].named_children())
    raise UserError(
        f"layer {layer} of the reference model has no neurons that a signal could read: it holds "
        f"{held}, and none of {', '.join(FEED_FORWARD)} has one of {', '.join(LAST)}. Choose a "
        "reference model with plain feed-forward blocks, or a method that does not read them."
    )


def check_layers(signals: Sequence[ForwardSignal], depth: int) -> tuple[int, ...]:
    """The sorted block numbers that the signals' taps name.

    Raises UserError for one that a model of ``depth`` blocks does not have, and for a signal that
    reads nothing.
    """
    for signal in signals:
        if not signal.taps() and not signal.last_layer:
            raise UserError(
                f"signal {signal.name} reads nothing of the model: its taps() are empty and "
                "last_layer is False. Return a Tap, or set last_layer = True."
            )
    layers = sorted({tap.layer for signal in signals for tap in signal.taps()})
    beyond = [layer for layer in layers if not 0 <= layer < depth]
    if beyond:
        raise UserError(
            f"layers {beyond} do not exist: the reference model has layers 0 to {depth - 1}. "
            "Set reference.layers, or the method's own."
        )
    return tuple(layers)


@contextmanager
def without_unread_layers(model: Any, signals: Sequence[ForwardSignal]) -> Iterator[None]:
    """In this context the blocks after the last tap are removed, if no signal reads the last
    output.
    """
    owner = decoder_of(model)
    layers = owner.layers
    wanted = check_layers(signals, len(layers))
    if not any(signal.last_layer for signal in signals):
        owner.layers = layers[: wanted[-1] + 1]
    try:
        yield
    finally:
        owner.layers = layers


def run(
    model: Any,
    batch: Mapping[str, torch.Tensor],
    signals: Sequence[ForwardSignal],
    images: Any = None,
    behind: Prefix | None = None,
    cached: bool = False,
    packed: Packed | None = None,
) -> Captured:
    """Forward one collated ``batch`` (``coincide.models.encode.collate``) and capture what signals
    read.

    ``images``: what the vision tower gave for the batch (``coincide.features.forward.vision``), if
    it ran. ``behind``: what the rows begin with, run already; the batch holds the rest of them.
    ``cached``: keys and values are to be kept for such runs. ``packed``: the same rows as sequences
    that hold several of them, which the model reads instead.
    """
    layers = decoder_layers(model)
    check_layers(signals, len(layers))
    tapped: dict[Tap, torch.Tensor] = {}

    def keep(tap: Tap, states: Any) -> None:
        if packed and isinstance(states, Weights):
            states = states.of_rows(packed.sequences, packed.places)
        elif packed:
            states = packed.unpacked(states)
        tapped[tap] = tap.reduce(states, batch)

    taps = dict.fromkeys(tap for signal in signals for tap in signal.taps())
    inputs = with_image_features(forward_inputs(model, packed.inputs if packed else batch), images)
    if behind is not None:
        inputs |= _behind(behind, batch["attention_mask"])
    with _tapping(layers, taps, keep):
        last, cache = last_states(model, inputs, use_cache=cached or behind is not None)
    return Captured(
        tapped,
        batch["attention_mask"],
        batch["image_mask"],
        batch["labels"],
        packed.unpacked(last) if packed else last,
        own_logits(model),
        cache if cached else None,
        packed,
        any(signal.last_layer for signal in signals),
    )


def _behind(prefix: Prefix, mask: torch.Tensor) -> dict[str, Any]:
    """What tells the model that rows with the attention ``mask`` [B, T] stand behind ``prefix``."""
    rows, tokens = mask.shape
    places = torch.arange(prefix.length, prefix.length + tokens, device=mask.device)
    return {
        "attention_mask": torch.cat([mask.new_ones(rows, prefix.length), mask], dim=1),
        "position_ids": places.expand(rows, -1),
        "past_key_values": prefix.cache,
    }


@contextmanager
def _tapping(
    layers: nn.ModuleList, taps: Iterable[Tap], keep: Callable[[Tap, Any], None]
) -> Iterator[None]:
    """Call ``keep`` with each of ``taps`` and what passes there while the model runs."""
    handles: list[Any] = []
    watching: dict[nn.Module, list[Tap]] = defaultdict(list)
    try:
        for tap in taps:
            if tap.place == "weights":
                watching[attention_of(layers, tap.layer)].append(tap)
            elif tap.place == "neurons":
                module = neurons_of(layers, tap.layer)
                handles.append(module.register_forward_pre_hook(_on_input(tap, keep)))
            else:
                whole = tap.place == "block"
                module = layers[tap.layer] if whole else attention_of(layers, tap.layer)
                handles.append(module.register_forward_hook(_on_output(tap, keep)))
        if not watching:
            yield
            return
        with attention_hooks({m: partial(_each, mine, keep) for m, mine in watching.items()}):
            yield
    finally:
        for handle in handles:
            handle.remove()


def _on_output(tap: Tap, keep: Callable[[Tap, Any], None]) -> Any:
    return lambda module, inputs, output: keep(
        tap, output[0] if isinstance(output, tuple) else output
    )


def _on_input(tap: Tap, keep: Callable[[Tap, Any], None]) -> Any:
    return lambda module, inputs: keep(tap, inputs[0])


def _each(taps: Sequence[Tap], keep: Callable[[Tap, Any], None], weights: Weights) -> None:
    for tap in taps:
        keep(tap, weights)


def with_image_features(inputs: Mapping[str, Any], images: Any) -> dict[str, Any]:
    """``inputs`` with what the vision tower gave, ``images``, in place of pixels, if it ran."""
    if images is None:
        return dict(inputs)
    rest = {k: v for k, v in inputs.items() if not k.startswith("pixel_")}
    return {**rest, "mm_encoder_outputs": {"image": images}}


def forward_inputs(model: Any, batch: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """The entries of ``batch`` that the model's forward takes; pixels in the model's dtype."""
    return {
        name: value.to(model.dtype) if value.is_floating_point() else value
        for name, value in model_inputs(batch).items()
        if name != "labels"
    }
