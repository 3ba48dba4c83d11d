"""The decoder inside an image-text model of transformers."""

from __future__ import annotations

from typing import Any

from torch import nn

from coincide.schema import UserError


def decoder_of(model: Any) -> Any:
    """The decoder of a transformers image-text model: the module whose ``layers`` are its blocks.

    Raises UserError, naming the modules there are, where none is found.
    """
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    if not hasattr(decoder, "layers"):  # a causal language model around it
        decoder = getattr(decoder, "model", decoder)
    if not isinstance(getattr(decoder, "layers", None), nn.ModuleList):
        found = ", ".join(name for name, _ in decoder.named_children()) or "nothing"
        raise UserError(
            f"the decoder of {type(model).__name__}, {type(decoder).__name__}, has no list of "
            f"layers; it holds {found}. Expected a transformers image-text-to-text model such as "
            "LlavaForConditionalGeneration."
        )
    return decoder


def inner(model: Any) -> Any:
    """The part of ``model`` that gives the last states: its base model, or the decoder of one that
    has none (Llama 4).
    """
    return decoder_of(model) if model.base_model is model else model.base_model


def last_states(model: Any, inputs: Any, *, use_cache: bool) -> tuple[Any, Any]:
    """States [B, T, H] after the final norm for ``inputs``, and the cache or None."""
    if model.base_model is not model:
        output = model.base_model(**inputs, use_cache=use_cache)
        return output.last_hidden_state, getattr(output, "past_key_values", None)
    kept: list[Any] = []
    handle = decoder_of(model).register_forward_hook(lambda m, i, output: kept.append(output))
    try:
        output = model(**inputs, use_cache=use_cache)
    finally:
        handle.remove()
    return kept[0].last_hidden_state, getattr(output, "past_key_values", None)
