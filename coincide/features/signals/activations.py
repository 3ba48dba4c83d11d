"""COINCIDE's feature: attention outputs of some layers, pooled by modality (paper, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from coincide.features.forward.contract import Tap
from coincide.features.passes.reference import ReferenceSignal
from coincide.schema import UserError

if TYPE_CHECKING:
    import torch

    from coincide.features.forward.contract import Captured
    from coincide.features.forward.projection import Projection

PROJECTION_SEED = 1234
"""Seed of the random projection; fixed, so that all runs with the same dimensions share a
projection."""


@dataclass(frozen=True)
class Activations(ReferenceSignal):
    """Per layer and modality: tanh of the mean attention output over its tokens, scaled to unit
    norm.

    [N, 2 L H] for L layers of width H. Columns are per layer ``[visual H | language H]``, all
    divided by sqrt(2 L). A half without tokens (the visual half of a text-only example) is zero,
    and the row is rescaled to unit norm.
    """

    name: ClassVar[str] = "activations"
    dtype: ClassVar[str] = "float16"

    layers: Sequence[int]
    """Decoder blocks, counted from 0."""
    projection: int | None = None
    """Dimensions of a random projection (``coincide.features.forward.projection``), which replaces
    each half by fewer columns, again scaled to unit norm; None: no projection."""
    projection_seed: int = PROJECTION_SEED

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))

    @property
    def label(self) -> str:
        return f"{self.name}_{self.projection}" if self.projection else self.name

    def params(self) -> dict[str, Any]:
        projected = {"projection": self.projection, "projection_seed": self.projection_seed}
        return {"layers": list(self.layers), **(projected if self.projection else {})}

    def width(self, hidden: int) -> int:
        """Columns; UserError for a projection with fewer dimensions than halves, or more than there
        are.
        """
        parts, projection = 2 * len(self.layers), self._projection()
        if projection is None:
            return parts * hidden
        if not 0 < projection.columns < hidden:
            raise UserError(
                f"method.projection={self.projection}: the features have {parts * hidden:,} "
                f"columns in {parts} parts, visual and language of each layer. Expected null, or "
                f"at least {parts} and fewer than {parts * hidden:,} dimensions."
            )
        return parts * projection.columns

    def taps(self) -> Sequence[Tap]:
        return [Tap(layer, "attention", modality_means) for layer in self.layers]

    def read(self, captured: Captured) -> torch.Tensor:
        import torch

        from coincide.features.forward.projection import project

        projection, parts = self._projection(), []
        for layer, tap in zip(self.layers, self.taps(), strict=True):
            for modality, mean in enumerate(captured.tapped[tap].unbind(dim=1)):
                half = _unit(torch.tanh(mean))
                if projection is not None:
                    half = _unit(project(half, projection, layer, modality))
                parts.append(half)
        return _unit(torch.cat(parts, dim=1))

    def _projection(self) -> Projection | None:
        from coincide.features.forward.projection import Projection

        if not self.projection:
            return None
        return Projection(self.projection, self.projection_seed, 2 * len(self.layers))


def modality_means(states: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Means of ``states`` [B, T, H] over visual and over text tokens, float64 [B, 2, H].

    Zero where a row has no token of the modality. ``batch`` holds the masks ``image_mask`` and
    ``text_mask`` [B, T].
    """
    import torch

    weights = torch.stack((batch["image_mask"], batch["text_mask"]), dim=1).to(torch.float64)
    return torch.bmm(weights, states.double()) / weights.sum(dim=2, keepdim=True).clamp_min(1.0)


def _unit(rows: torch.Tensor) -> torch.Tensor:
    """``rows`` [B, D] scaled to unit norm; rows of zeros stay zero."""
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-30)
