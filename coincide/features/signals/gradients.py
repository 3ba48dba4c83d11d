"""Sketches of rows' gradients by the LoRA parameters of a warmed-up target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from coincide.features.passes.adapted import GradientSignal
from coincide.ops.sketch import PROJECTIONS, SketchKind
from coincide.schema import UserError

if TYPE_CHECKING:
    from coincide.features.forward.gradients import GradientReading

KINDS, LOSSES = ("sgd", "adam"), ("mean", "sum")


@dataclass(frozen=True)
class Gradients(GradientSignal):
    """[N, D], unit rows: the gradient of a row's loss by the LoRA parameters of the target with
    checkpoint ``at`` of ``adapter``, sketched (``coincide.ops.sketch``). Products of two rows are
    cosines of their gradients; the lengths are the signal ``GradientLength``.
    """

    name: ClassVar[str] = "gradients"
    dtype: ClassVar[str] = "float16"

    projection: SketchKind = "hashed"
    dimension: int = 8192
    """D; with ``per_module`` k, for each matrix."""
    kind: Literal["sgd", "adam"] = "sgd"
    """``adam``: the step of Adam with the warm-up's moments and the row as the next batch."""
    loss: Literal["mean", "sum"] = "mean"
    """Over the answer tokens of a row. The same unit rows with ``sgd``."""
    seed: int = 0
    """Of the sketch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_reading(self.name, self.kind, self.loss)
        if self.projection not in PROJECTIONS:
            choices = ", ".join(PROJECTIONS)
            raise UserError(f"projection={self.projection!r}: the choices are {choices}.")
        if isinstance(self.dimension, bool) or self.dimension < 1:
            raise UserError(f"dimension={self.dimension!r}: expected a whole number, 1 or more.")

    def width(self, hidden: int) -> int:
        """``dimension``; of ``per_module`` only the adapter tells how many there are."""
        return self.dimension

    def reading(self) -> GradientReading:
        from coincide.features.forward.gradients import GradientReading

        return GradientReading(
            self.at, self.kind, self.loss, self.projection, self.dimension, self.seed
        )


def check_reading(signal: str, kind: Any, loss: Any) -> None:
    """Raise UserError, naming the ``signal``, unless kind and loss of a gradient are known."""
    for field, value, choices in (("kind", kind, KINDS), ("loss", loss, LOSSES)):
        if value not in choices:
            raise UserError(f"{signal}: {field}={value!r}; the choices are {', '.join(choices)}.")
