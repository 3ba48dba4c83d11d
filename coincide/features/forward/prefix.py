"""Reuse keys and values between variants of a row: a common beginning is computed once.

The unasked variant begins like the whole row, with the opening and the image, which is most of its
tokens. The rest of it runs with the cache of the whole row, cut where the two differ. That is
correct for decoders whose layers all keep every key, with one position per token. With others
(sliding windows, linear attention, multimodal positions, bidirectional attention) the variant runs
from its beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from coincide.models.encode import IGNORE, Encoded
from coincide.models.inputs import PER_TOKEN


@dataclass(frozen=True)
class Prefix:
    """Cached keys and values of the first ``length`` tokens of some rows."""

    cache: Any
    length: int


def can_share(model: Any, cache: Any) -> bool:
    """Whether ``cache``, from a run of ``model``, can be cut and continued."""
    from transformers.cache_utils import DynamicLayer

    config = model.config.get_text_config()
    positions = getattr(config, "rope_parameters", None) or {}
    layers = getattr(cache, "layers", None)
    if not layers or "mrope_section" in positions:
        return False
    return len(layers) == config.num_hidden_layers and all(
        type(layer) is DynamicLayer and layer.keys is not None for layer in layers
    )


def shared_length(whole: Encoded, variant: Encoded) -> int:
    """Number of leading tokens of ``variant`` that are computed already in ``whole``; 0: none.

    The token that predicts the first answer is always computed, and images are never split.
    """
    if any(name in PER_TOKEN for name in (*whole.extra, *variant.extra)):
        return 0
    most = min(len(whole.input_ids), len(variant.input_ids) - 1)
    answers = torch.nonzero(variant.labels != IGNORE)
    most = min(most, int(answers[0]) - 1) if len(answers) else most
    apart = torch.nonzero(whole.input_ids[: max(most, 0)] != variant.input_ids[: max(most, 0)])
    length = int(apart[0]) if len(apart) else max(most, 0)
    return 0 if bool(variant.image_mask[length:].any()) else length


def prefix_of(cache: Any, rows: Sequence[int], length: int) -> Prefix:
    """The first ``length`` tokens of ``rows`` of ``cache``, as a cache of their own."""
    from transformers.cache_utils import DynamicCache

    every = list(range(len(cache.layers[0].keys)))
    chosen = None if list(rows) == every else list(rows)

    def cut(states: torch.Tensor) -> torch.Tensor:
        return (states if chosen is None else states[chosen])[:, :, :length]

    return Prefix(DynamicCache([(cut(x.keys), cut(x.values)) for x in cache.layers]), length)


def rest_of(row: Encoded, length: int) -> Encoded:
    """``row`` without its first ``length`` tokens, which contain all its images."""
    return replace(
        row,
        input_ids=row.input_ids[length:],
        labels=row.labels[length:],
        image_mask=row.image_mask[length:],
        text_mask=row.text_mask[length:],
        pixel_values=None,
        extra={},
    )
