"""The vision tower, run once for all rows of a shard that show the same image."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from coincide.models.encode import Encoded
from coincide.models.inputs import ALIKE, PER_TOKEN

PLAIN = {"last_hidden_state", "pooler_output", "hidden_states", "attentions"}
"""Fields of the tower's output that are not image features."""


class TowerOnce:
    """Image features of a model, kept until the last row that shows the image is done.

    Works for models whose forward takes precomputed features (``mm_encoder_outputs``); for rows
    with several images only if the model's inputs are separate for each image. Otherwise the
    features of each row are computed in the model's own forward.
    """

    def __init__(self, model: Any) -> None:
        self.model = model.base_model
        takes = inspect.signature(self.model.forward).parameters
        self.able = "mm_encoder_outputs" in takes and hasattr(self.model, "get_image_features")
        self.left: Counter[str] = Counter()
        self.kept: dict[str, torch.Tensor] = {}
        self.stacked = False
        """Whether the model gives one tensor for all images, not one for each."""

    def begin(self, names: Iterable[str]) -> None:
        """Start a new shard; ``names`` are the images of all its rows, with repetitions."""
        self.left = Counter(names)
        self.kept = {}

    def features(
        self,
        shown: Sequence[tuple[str, ...]],
        rows: Sequence[Encoded],
        inputs_of: Callable[[Sequence[Encoded]], Mapping[str, Any]],
    ) -> Any:
        """Image features of the batch ``rows``, which show the images ``shown``, for the model's
        forward.

        ``inputs_of`` gives the model's inputs for some rows. None if no image is shared, or if the
        model or the batch does not allow precomputed features.
        """
        names = [name for images in shown for name in images]
        shared = any(self.left[name] > 1 or name in self.kept for name in names)
        if not self.able or not shared:
            return None
        new: dict[str, Encoded] = {}
        for row, images in zip(rows, shown, strict=True):
            for number, name in enumerate(images):
                alone = one_image(row, number, len(images))
                if alone is None:  # what such a row's images become may depend on their number
                    return None
                if name not in self.kept:
                    new.setdefault(name, alone)
        if new and not self._run(list(new), inputs_of(list(new.values()))):
            return None
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        parts: Any = [self.kept[name] for name in names]
        if self.stacked:
            if len({part.shape for part in parts}) > 1:
                return None
            parts = torch.stack(parts)
        return BaseModelOutputWithPooling(pooler_output=parts)

    def passed(self, shown: Sequence[tuple[str, ...]]) -> None:
        """The rows that show these images are done: forget images that no later row shows."""
        for name in (name for images in shown for name in images):
            self.left[name] -= 1
            if self.left[name] <= 0:
                self.kept.pop(name, None)

    def _run(self, names: Sequence[str], inputs: Mapping[str, Any]) -> bool:
        """Encode the images ``names``; returns whether the model gives features image by image."""
        takes = inspect.signature(self.model.get_image_features).parameters
        found = self.model.get_image_features(
            **{name: value for name, value in inputs.items() if name in takes}, return_dict=True
        )
        parts = found.pooler_output
        known = parts is not None and set(found.keys()) <= PLAIN
        self.able = known and len(parts) == len(names)
        self.stacked = isinstance(parts, torch.Tensor)
        if self.able:
            self.kept.update(zip(names, parts, strict=True))
        return self.able


def one_image(row: Encoded, number: int, images: int) -> Encoded | None:
    """``row`` with only image ``number`` of its ``images``; None if its inputs are not by image."""
    if images == 1:
        return row
    by_image = {name: value for name, value in row.extra.items() if name not in PER_TOKEN}
    pixels = row.pixel_values
    if row.way == ALIKE and by_image:  # its processor may have padded one image for another
        return None
    if pixels is None or any(len(value) != images for value in (pixels, *by_image.values())):
        return None
    part = slice(number, number + 1)
    extra = {**row.extra, **{name: value[part] for name, value in by_image.items()}}
    return replace(row, pixel_values=pixels[part], extra=extra)
