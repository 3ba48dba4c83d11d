"""The vision tower, run once for all rows of a shard that show the same image."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

PLAIN = {"last_hidden_state", "pooler_output", "hidden_states", "attentions"}
"""What may come with image features without being part of them."""


class TowerOnce:
    """Image features of a model, kept until the last row that shows the image has passed.

    Works for models that take precomputed features (``mm_encoder_outputs``) and for rows with one
    image; others go their usual way, each row's images through the tower.
    """

    def __init__(self, model: Any) -> None:
        self.model = model.base_model
        takes = inspect.signature(self.model.forward).parameters
        self.able = "mm_encoder_outputs" in takes and hasattr(self.model, "get_image_features")
        self.left: Counter[str] = Counter()
        self.kept: dict[str, torch.Tensor] = {}

    def begin(self, names: Iterable[str]) -> None:
        """A new shard, whose rows of one image show ``names``, with repetition."""
        self.left = Counter(names)
        self.kept = {}

    def features(
        self,
        shown: Sequence[tuple[str, ...]],
        inputs_of: Callable[[list[int]], Mapping[str, Any]],
    ) -> Any:
        """Features of a batch whose rows show the images ``shown``, for ``mm_encoder_outputs``.

        ``inputs_of`` gives the model's inputs of some rows. None where nothing is to be saved, or
        where the model or the batch does not allow it.
        """
        names = [row[0] if row else "" for row in shown]
        shared = any(self.left[n] > 1 or n in self.kept for n in names if n)
        if not self.able or not shared or any(len(row) > 1 for row in shown):
            return None
        new = {name: i for i, name in reversed(list(enumerate(names))) if name not in self.kept}
        new.pop("", None)
        if new and not self._run(new, inputs_of(sorted(new.values()))):
            return None
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        return BaseModelOutputWithPooling(pooler_output=[self.kept[n] for n in names if n])  # type: ignore[arg-type]

    def passed(self, shown: Sequence[tuple[str, ...]]) -> None:
        """These rows are done: forget the images that no further row shows."""
        for name in (row[0] for row in shown if len(row) == 1):
            self.left[name] -= 1
            if self.left[name] <= 0:
                self.kept.pop(name, None)

    def _run(self, new: Mapping[str, int], inputs: Mapping[str, Any]) -> bool:
        """Encode the images ``new`` (name -> row); whether the features come image by image."""
        takes = inspect.signature(self.model.get_image_features).parameters
        found = self.model.get_image_features(
            **{name: value for name, value in inputs.items() if name in takes}, return_dict=True
        )
        parts = found.pooler_output
        self.able = set(found.keys()) <= PLAIN and len(parts) == len(new)
        if self.able:
            self.kept.update(zip(sorted(new, key=new.__getitem__), parts, strict=True))
        return self.able
