"""Attention of many rows to keys and values of prefixes that are kept once, not once a row.

The softmax over a prefix and over what stands behind it is put together from the two parts by their
log sums of exponentials, so the rows of one prefix are one matrix product with its keys. Blocks
whose attention goes through transformers' attention interface can be asked so (:func:`install`);
all others go on as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME = "coincide_shared_prefix"
"""Of our function in transformers' table of attention functions."""
FOREIGN = ("softcap", "s_aux", "sinks", "position_bias", "sliding_window")
"""What an attention function may be given that this one does not do."""


class CannotDivide(Exception):
    """A block's attention is another than softmax over all keys."""


class SharedLayer(DynamicLayer):
    """A layer of a cache for B rows behind P prefixes; ``keys`` and ``values`` are the rows' own.

    ``prefixes``: keys and values [H, T_p, D] of each prefix, without padding. ``owners``: the
    prefix of each row, ascending. ``length``: tokens of the longest prefix, as masks count them.
    """

    def __init__(
        self, prefixes: Sequence[tuple[torch.Tensor, torch.Tensor]], owners: list[int], length: int
    ) -> None:
        super().__init__()
        self.prefixes, self.owners, self.length = prefixes, owners, length
        self.lazy_initialization(*prefixes[0])

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add keys and values [B, H, t, D]; returns the rows' own, which know their prefixes."""
        assert self.keys is not None
        assert self.values is not None
        if self.keys.numel():
            key_states = torch.cat([self.keys, key_states], dim=-2)
            value_states = torch.cat([self.values, value_states], dim=-2)
        self.keys, self.values = key_states, value_states
        self.keys.behind = self  # type: ignore[attr-defined]
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Tokens of prefix and row, padding included."""
        own = self.keys.shape[-2] if self.keys is not None and self.keys.numel() else 0
        return self.length + own

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Keep rows ``beam_idx``, ascending."""
        assert self.keys is not None
        assert self.values is not None
        self.owners = [self.owners[row] for row in beam_idx.tolist()]
        self.keys = self.keys.index_select(0, beam_idx)
        self.values = self.values.index_select(0, beam_idx)


def shared_layer(layer: Any, mask: torch.Tensor, owners: list[int]) -> SharedLayer:
    """The layer of a run over P prefixes with the attention ``mask`` [P, T], for rows of theirs."""
    starts = (mask.shape[1] - mask.sum(dim=1)).tolist()  # padding stands on the left
    prefixes = [
        (keys[:, start:], values[:, start:])
        for keys, values, start in zip(layer.keys, layer.values, starts, strict=True)
    ]
    return SharedLayer(prefixes, owners, mask.shape[1])


def install(network: Any) -> bool:
    """Let the decoder of ``network`` attend to :class:`SharedLayer`; whether all blocks can.

    With other caches its attention is what it was.
    """
    AttentionInterface.register(NAME, _attention)
    layers = getattr(network.get_decoder(), "layers", ())
    found = [
        [m for m in block.modules() if hasattr(m, "layer_idx") and hasattr(m, "config")]
        for block in layers
    ]
    every = [module for block in found for module in block]
    if not every or not all(found) or any(_implementation(m) not in ("sdpa", NAME) for m in every):
        return False
    for module in every:
        own = copy.copy(module.config)
        own._attn_implementation = {"": NAME}  # of this module alone
        module.config = own
    return True


def _implementation(module: nn.Module) -> Any:
    return getattr(module.config, "_attn_implementation", None)


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None = None,
    **more: Any,
) -> Any:
    """As transformers' attention functions: query [B, heads, q, D] -> [B, q, heads, D], None."""
    behind = getattr(key, "behind", None)
    if behind is None and mask is not None and mask.shape[-1] != key.shape[-2]:
        # keys that a block makes anew of what its cache holds (DeepSeek's latent attention)
        raise CannotDivide(f"{type(module).__name__} keeps no keys in its cache")
    if behind is None:
        return sdpa_attention_forward(module, query, key, value, mask, scaling=scaling, **more)
    if foreign := [name for name in FOREIGN if more.get(name) is not None]:
        raise CannotDivide(f"{type(module).__name__} attends with {', '.join(foreign)}")
    rows, heads, queries, width = query.shape
    groups = heads // key.shape[1]
    asked = query.reshape(rows, key.shape[1], groups * queries, width)
    asked = asked * (scaling if scaling is not None else width**-0.5)
    over = _fused if fused_works(query.device, query.dtype) else _over
    parts = [
        over(asked[first:end].transpose(0, 1).flatten(1, 2), *behind.prefixes[prefix])
        for prefix, first, end in _runs(behind.owners)
    ]
    shape = (key.shape[1], -1, groups * queries)
    there = torch.cat([out.reshape(*shape, width).transpose(0, 1) for out, _ in parts])
    weight = torch.cat([total.reshape(*shape, 1).transpose(0, 1) for _, total in parts])
    here, own = _over(asked, key, value, _own_mask(mask, queries, key, groups))
    share = torch.sigmoid(weight - own)  # of the prefix, among all that is attended to
    found = torch.lerp(here, there, share).to(query.dtype)
    return found.reshape(rows, heads, queries, width).transpose(1, 2).contiguous(), None


def _over(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention [.., q, D] of scaled queries over some keys, and the log sum [.., q, 1] of its
    exponentials, both in float32 at least.
    """
    scores = torch.matmul(query, key.transpose(-1, -2))
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    total = scores.logsumexp(dim=-1, keepdim=True)
    weights = torch.exp(scores - total)
    return torch.matmul(weights.to(value.dtype), value).to(scores.dtype), total


def _fused(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """:func:`_over` for [H, q, D] without a mask, by a kernel of torch that forms no scores."""
    given = (query[None], key[None], value[None])
    if query.device.type == "cpu":
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out, total = kernel(*given, 0.0, False, scale=1.0)
    else:
        kernel = torch.ops.aten._scaled_dot_product_efficient_attention
        out, total, *_ = kernel(*given, None, True, 0.0, False, scale=1.0)
    total = total[0, :, : query.shape[1], None]
    dtype = torch.promote_types(total.dtype, torch.float32)
    return out[0].to(dtype), total.to(dtype)


@cache
def fused_works(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this torch has the kernel of :func:`_fused` for the device, and it gives the same."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(2, n, 64, generator=generator).to(device, dtype) for n in (3, 40, 40)
    )
    allowed = 1e-5 if dtype in (torch.float32, torch.float64) else 2e-2
    try:
        pairs = zip(_fused(query, key, value), _over(query, key, value), strict=True)
        return all(torch.allclose(x, y, rtol=allowed, atol=allowed) for x, y in pairs)
    except (RuntimeError, AttributeError, TypeError, ValueError):
        return False


def _own_mask(
    mask: torch.Tensor | None, queries: int, key: torch.Tensor, groups: int
) -> torch.Tensor:
    """bool [B or 1, 1, groups * q, t]: what each query sees of the ``key`` [B, H, t, D] of its row.

    A query at padding sees itself, so that its numbers are finite.
    """
    tokens = key.shape[-2]
    place = torch.arange(tokens, device=key.device)
    own = place == place[tokens - queries :, None]
    if mask is None:
        seen = place <= place[tokens - queries :, None]
    else:
        seen = mask[..., -tokens:]
        seen = (seen if seen.dtype == torch.bool else seen == 0) | own
    return seen.reshape(-1, 1, queries, tokens).repeat(1, 1, groups, 1)


def _runs(owners: Sequence[int]) -> list[tuple[int, int, int]]:
    """Prefix, first and one past the last of the rows of each prefix that has some."""
    firsts = [i for i, prefix in enumerate(owners) if i == 0 or owners[i - 1] != prefix]
    ends = [*firsts[1:], len(owners)]
    return [(owners[first], first, end) for first, end in zip(firsts, ends, strict=True)]
