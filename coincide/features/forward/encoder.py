"""Encode rows of a dataset for the model, in every variant that a pass asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from coincide.features.forward import variants
from coincide.features.forward.contract import BLIND, VARIANTS, ForwardSignal, RowVariant
from coincide.models.chat import ConversationRefused
from coincide.models.encode import Encoded, ImageCache, encode
from coincide.models.template import TEMPLATES
from coincide.schema import Dataset, Example


def variants_of(signals: Sequence[ForwardSignal]) -> tuple[RowVariant, ...]:
    """The variants that ``signals`` need, in the order in which they run."""
    asked = {signal.variant for signal in signals}
    return tuple(variant for variant in VARIANTS if variant in asked)


@dataclass(frozen=True)
class RowEncoder:
    """``encoder(rows)``: these rows of the dataset as model inputs, numpy arrays by variant.

    An image that several of the rows show is read once.
    """

    dataset: Dataset
    processor: Any
    template: str
    max_length: int
    drop_refused: bool = False
    variants: tuple[RowVariant, ...] = ("whole",)

    def __call__(self, rows: Sequence[int]) -> list[dict[RowVariant, dict[str, Any]] | None]:
        cache = ImageCache()
        shared: dict[int, tuple[torch.Tensor, np.ndarray]] = {}
        return [self._one(self.dataset.examples[row], cache, shared) for row in rows]

    def _one(
        self,
        example: Example,
        cache: ImageCache,
        shared: dict[int, tuple[torch.Tensor, np.ndarray]],
    ) -> dict[RowVariant, dict[str, Any]] | None:
        """One example; None if a policy drops it, or if no text is left after its image.

        ``shared`` (by identity) lets the pixels of several rows travel once.
        """
        if example.row in self.dataset.dropped:
            return None
        try:
            found = self._variants(example, cache)
        except ConversationRefused:
            if self.drop_refused:
                return None
            raise
        if found is None:
            return None

        def array(tensor: torch.Tensor) -> np.ndarray:
            return shared.setdefault(id(tensor), (tensor, tensor.numpy()))[1]

        def arrays(encoded: Encoded) -> dict[str, Any]:
            parts = {name: value for name, value in vars(encoded).items() if value is not None}
            extra = {name: array(value) for name, value in parts.pop("extra").items()}
            rest = {"extra": extra, "way": parts.pop("way")}
            return {**{name: array(value) for name, value in parts.items()}, **rest}

        return {variant: arrays(encoded) for variant, encoded in found.items()}

    def _variants(self, example: Example, cache: ImageCache) -> dict[RowVariant, Encoded] | None:
        """``example`` in each variant; None if no text follows its image."""
        given = (example, self.dataset, self.processor, TEMPLATES[self.template], self.max_length)
        whole = encode(*given, cache)
        if not whole.text_mask.any():
            return None
        found: dict[RowVariant, Encoded] = {"whole": whole} if "whole" in self.variants else {}
        for variant in BLIND:
            if variant in self.variants and (example.images or "whole" not in found):
                found[variant] = getattr(variants, variant)(whole, *given)
        if "unasked" in self.variants:
            found["unasked"] = variants.unasked(whole, *given, cache)
        return found


def as_tensors(arrays: dict[str, Any]) -> Encoded:
    """One variant of a row from :class:`RowEncoder` as tensors."""
    own = {k: v for k, v in arrays.items() if k not in ("extra", "way")}
    tensors: dict[str, Any] = {k: torch.from_numpy(v) for k, v in own.items()}
    extra = {k: torch.from_numpy(v) for k, v in arrays["extra"].items()}
    return Encoded(**{"pixel_values": None, **tensors}, extra=extra, way=arrays["way"])
