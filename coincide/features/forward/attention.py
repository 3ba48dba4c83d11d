"""The attention weights of single blocks, while the model runs with fused attention.

Fused attention (SDPA) never forms its weights. A block that is watched hands its queries and keys,
rotated and normalised as the family has it, to :class:`Weights`, which forms the weights of the
queries that are asked for; its output is still the fused one, so that nothing else changes. That
takes a family whose attention goes through transformers' attention interface; others are refused.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from coincide.schema import UserError

NAME = "coincide_watched"
"""Of our function in transformers' table of attention functions."""
QUERIES = 256
"""Queries of a row whose weights are in memory at once."""


@dataclass(frozen=True)
class Weights:
    """The attention of one block over a batch, not yet formed."""

    query: torch.Tensor
    """[B, heads, T, d]."""
    key: torch.Tensor
    """[B, key heads, T, d]; heads of one group share one."""
    mask: torch.Tensor | None
    """[B or 1, 1, T, T]: bool, or added to the scores; None: causal."""
    scaling: float

    def of_rows(self, sequences: torch.Tensor, places: torch.Tensor) -> Weights:
        """Those of rows that stand in causal sequences of several (``Packed``): int64 [B] and
        [B, T].
        """
        own = sequences[:, None], slice(None), places  # advanced around a slice: [B, T, heads, d]
        query, key = (states[own].transpose(1, 2) for states in (self.query, self.key))
        return Weights(query, key, None, self.scaling)

    def mean_of_heads(self, row: int, queries: torch.Tensor, tokens: int) -> torch.Tensor:
        """What the tokens at ``queries`` (int64 [q]) of a row attend to among its first ``tokens``:
        float64 [q, tokens], rows sum to 1. Softmax in float32 at least.
        """
        parts = [self._some(row, part, tokens) for part in queries.split(QUERIES)]
        return torch.cat(parts) if parts else self.query.new_zeros(0, tokens, dtype=torch.float64)

    def _some(self, row: int, queries: torch.Tensor, tokens: int) -> torch.Tensor:
        dtype = torch.promote_types(self.query.dtype, torch.float32)
        query = self.query[row][:, queries].to(dtype)
        key = self.key[row, :, :tokens].to(dtype)
        key = key.repeat_interleave(len(query) // len(key), dim=0)
        scores = query @ key.transpose(1, 2) * self.scaling
        places = torch.arange(tokens, device=queries.device)
        if self.mask is None:
            scores = scores.masked_fill(places > queries[:, None], -torch.inf)
        else:
            mask = self.mask[row if len(self.mask) > 1 else 0, 0][queries, :tokens]
            boolean = mask.dtype == torch.bool
            scores = scores.masked_fill(~mask, -torch.inf) if boolean else scores + mask
        return scores.softmax(dim=-1).double().mean(dim=0)


Keep = Callable[[Weights], None]


@contextmanager
def attention_hooks(modules: Mapping[nn.Module, Keep]) -> Iterator[None]:
    """Hand the weights of each of the attention ``modules`` to its function while a model runs.

    Raises :class:`UserError` for one whose family does not use transformers' attention interface:
    at once where it has no configuration, else afterwards, if it ran and was never heard of.
    """
    from transformers import AttentionInterface

    heard: set[nn.Module] = set()

    def attention(
        module: nn.Module, query: Any, key: Any, value: Any, mask: Any, **more: Any
    ) -> Any:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        if more.get("position_bias") is not None:
            raise _refused(module, "adds a position bias")
        scaling = more.get("scaling") or query.shape[-1] ** -0.5
        heard.add(module)
        modules[module](Weights(query, key, mask, scaling))
        return sdpa_attention_forward(module, query, key, value, mask, **more)

    AttentionInterface.register(NAME, attention)
    before = {module: _config_of(module) for module in modules}
    try:
        for module, config in before.items():
            own = copy.copy(config)
            own._attn_implementation = {"": NAME}  # of this module alone
            module.config = own  # type: ignore[assignment]
        yield
    finally:
        for module, config in before.items():
            module.config = config
    for module in modules:
        if module not in heard:
            raise _refused(module, "has an attention function of its own")


def _config_of(module: nn.Module) -> Any:
    config = getattr(module, "config", None)
    if getattr(config, "_attn_implementation", None) is None:
        raise _refused(module, "has no configuration that names its attention function")
    return config


def _refused(module: nn.Module, why: str) -> UserError:
    return UserError(
        f"the attention weights of {type(module).__name__} cannot be read: it {why}. Methods that "
        "read them (scalselect, magic) need a reference model whose blocks use transformers' "
        "attention interface: Llama, Qwen2 and 3, StableLM, Phi, Mistral, Gemma and their like do."
    )
