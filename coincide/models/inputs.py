"""What the inputs of a model count by, and how those of several rows are joined to a batch.

Most families' inputs are joined along their first axis, be it by picture, tile or patch, if their
other axes agree. Which families bear padding, and which need more, is known by their processor; for
all others unlike inputs are not joined (``UnlikeInputs``): such rows run apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from coincide.schema import UserError

PER_TOKEN = ("token_type_ids", "mm_token_type_ids", "position_ids")
"""Inputs of some models with one value per token, like ``input_ids``."""
PIXELS = "pixel_values"
Parts = Sequence[Mapping[str, torch.Tensor]]
"""The inputs of each row that are not by token; ``PIXELS`` are among them."""


class UnlikeInputs(UserError):
    """Rows whose inputs cannot be one batch: the model bears no padding of pictures."""


def joined(parts: Parts, way: str) -> dict[str, torch.Tensor]:
    """The inputs of rows as those of a batch, joined in the ``way`` of the rows' family.

    Raises :class:`UnlikeInputs` where shapes differ and the family bears no padding.
    """
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: WAYS[way](name, [p for p in parts if name in p]) for name in names}


def way_of(processor: Any) -> str:
    """The way in which rows of ``processor`` are joined, a key of ``WAYS``."""
    names = [kind.__name__ for kind in type(processor).__mro__]
    return next((BY_PROCESSOR[name] for name in names if name in BY_PROCESSOR), ALIKE)


def groups(shapes: Sequence[tuple[str, Mapping[str, torch.Tensor]]]) -> list[list[int]]:
    """Places of rows that can be one batch each, in the order of the first of each group.

    Takes each row's way and inputs; rows without inputs join any group.
    """
    found: dict[Any, list[int]] = {}
    blind = [i for i, (_, inputs) in enumerate(shapes) if not inputs]
    for place, (way, inputs) in enumerate(shapes):
        if inputs:
            kinds = tuple((n, tuple(v.shape[1:])) for n, v in sorted(inputs.items()))
            found.setdefault(kinds if way == ALIKE else way, []).append(place)
    if not found:
        return [blind] if blind else []
    first, *rest = found.values()
    return [sorted([*first, *blind]), *rest]


def unknown(names: Sequence[str], processor: Any) -> list[str]:
    """Those of ``names`` of which the processor's own description does not say what they count."""
    images = getattr(processor, "image_processor", None)
    told = {PIXELS, *PER_TOKEN, *getattr(images, "model_input_names", ())}
    own = BY_IMAGE.get(type(processor).__name__, ())
    return [name for name in names if name not in told and name not in own]


# --- ways ---------------------------------------------------------------------------------------


def _alike(name: str, parts: Parts) -> torch.Tensor:
    values = [part[name] for part in parts]
    shapes = list(dict.fromkeys(tuple(value.shape[1:]) for value in values))
    if len(shapes) > 1:
        raise UnlikeInputs(
            f"the input {name} of these rows has shapes {shapes[0]} and {shapes[1]} for each "
            "picture, and this model bears no padding of pictures. Let rows run one at a time: "
            "train.micro_batch=1, features.batch_size=1, eval.batch_size=1."
        )
    return torch.cat(values)


def _padded(name: str, parts: Parts) -> torch.Tensor:
    """Other axes padded with zeros to the largest; the model leaves the padding out."""
    return _with(0, [part[name] for part in parts])


def _with(fill: int, values: Sequence[torch.Tensor]) -> torch.Tensor:
    if len({value.shape[1:] for value in values}) == 1:
        return torch.cat(list(values))
    shape = np.max([value.shape[1:] for value in values], axis=0).tolist()
    whole = values[0].new_full((sum(map(len, values)), *shape), fill)
    start = 0
    for value in values:
        whole[(slice(start, start + len(value)), *map(slice, value.shape[1:]))] = value
        start += len(value)
    return whole


def _gemma4(name: str, parts: Parts) -> torch.Tensor:
    """Positions of patches that are padding are -1."""
    return _with(-1 if name.endswith("position_ids") else 0, [part[name] for part in parts])


def _strip(name: str, parts: Parts) -> torch.Tensor:
    """Patches of all pictures in one strip, along the last axis (MiniCPM-V 4.6)."""
    return torch.cat([part[name] for part in parts], dim=-1 if name == PIXELS else 0)


def _tiles(name: str, parts: Parts) -> torch.Tensor:
    """Tiles of pictures [n, tiles, ...]: the model takes them one by one, whichever picture they
    are of (Perception LM).
    """
    if name != PIXELS:
        return _alike(name, parts)
    values = [part[name].flatten(0, 1) for part in parts]
    return torch.cat(values).unsqueeze(0)


def _counting(name: str, parts: Parts) -> torch.Tensor:
    """Indices of patches count over the whole batch; -1 is none (Molmo 2)."""
    if name != POOLING:
        return _padded(name, parts)
    values, patches = [], 0
    for part in parts:
        value = part[name]
        values.append(torch.where(value >= 0, value + patches, value))
        patches += part[PIXELS].shape[0] * part[PIXELS].shape[1]
    return _with(-1, values)


POOLING = "image_token_pooling"
ALIKE = "alike"
WAYS: Mapping[str, Callable[[str, Parts], torch.Tensor]] = {
    ALIKE: _alike,
    "padded": _padded,
    "gemma4": _gemma4,
    "strip": _strip,
    "tiles": _tiles,
    "counting": _counting,
}
BY_PROCESSOR: Mapping[str, str] = {
    # the model cuts the padding off by image_sizes
    "LlavaNextProcessor": "padded", "LlavaNextVideoProcessor": "padded",
    "LlavaOnevisionProcessor": "padded", "Granite4VisionProcessor": "padded",
    "PixtralProcessor": "padded", "LightOnOcrProcessor": "padded",
    # it leaves out what pixel_attention_mask is zero for, and pictures of zeros alone
    "Idefics3Processor": "padded", "SmolVLMProcessor": "padded", "Lfm2VlProcessor": "padded",
    "Gemma4Processor": "gemma4",
    "MiniCPMV4_6Processor": "strip",
    "PerceptionLMProcessor": "tiles",
    "Molmo2Processor": "counting",
}  # fmt: skip
"""Class of a processor -> way; each is held to its model by ``tests/families``."""
BY_IMAGE: Mapping[str, tuple[str, ...]] = {"VideoLlavaProcessor": ("pixel_values_images",)}
"""Inputs by picture that a processor's own description leaves out."""
FEATURE_TOKENS: Mapping[str, str] = {
    "Molmo2Processor": "<im_patch>", "Llama4Processor": "<|patch|>", "Ovis2Processor": "<IMG_ATOM>",
}  # fmt: skip
"""Tokens that receive features, where the processor names another."""
