"""Lengths of rows' gradients by the LoRA parameters of a warmed-up target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from coincide.features.passes.adapted import GradientSignal
from coincide.features.signals.gradients import check_reading

if TYPE_CHECKING:
    from coincide.features.forward.gradients import GradientReading


@dataclass(frozen=True)
class GradientLength(GradientSignal):
    """[N, 1]: Euclidean length of the whole gradient, not of a sketch: two of them times the
    product of two rows of ``Gradients`` estimate the gradients' inner product. In one pass with
    these it costs nothing.
    """

    name: ClassVar[str] = "gradient_length"
    dtype: ClassVar[str] = "float32"

    kind: Literal["sgd", "adam"] = "sgd"
    loss: Literal["mean", "sum"] = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_reading(self.name, self.kind, self.loss)

    def width(self, hidden: int) -> int:
        return 1

    def reading(self) -> GradientReading:
        from coincide.features.forward.gradients import GradientReading

        return GradientReading(self.at, self.kind, self.loss, None)
