"""Which neurons of the feed-forward blocks the answer of a row excites most (MAGIC)."""

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

IGNORE = -100


@dataclass(frozen=True)
class Neurons(ReferenceSignal):
    """[N, L S]: of each of L ``layers`` the numbers of its ``stored`` most active neurons S.

    A neuron is an input of the block's last projection, ``down_proj``; its activity the mean over
    the answer tokens, signed; the most active come first, ties by number. Numbers are whole, and
    exact in float32. NaN for a row without answer tokens.
    """

    name: ClassVar[str] = "neurons"
    dtype: ClassVar[str] = "float32"
    nan_allowed: ClassVar[bool] = True

    layers: Sequence[int]
    """Decoder blocks, 0-based."""
    stored: int = 64

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))

    def params(self) -> dict[str, Any]:
        return {"layers": list(self.layers), "stored": self.stored}

    def width(self, hidden: int) -> int:
        return len(self.layers) * self.stored

    def taps(self) -> Sequence[Tap]:
        return [Tap(layer, "neurons", answer_mean) for layer in self.layers]

    def read(self, captured: Captured) -> torch.Tensor:
        import torch

        return torch.cat([self._first(captured.tapped[tap]) for tap in self.taps()], dim=1)

    def _first(self, activity: torch.Tensor) -> torch.Tensor:
        """Numbers of the most active of F neurons, ``activity`` [B, F]: float64 [B, stored]."""
        import torch

        if activity.shape[1] < self.stored:
            raise UserError(
                f"the reference model has {activity.shape[1]} neurons a block; expected at least "
                f"the {self.stored} that are to be stored. Set method.stored lower."
            )
        order = torch.argsort(-activity, dim=1, stable=True)[:, : self.stored].double()
        return order.masked_fill(activity.isnan().any(dim=1, keepdim=True), torch.nan)


def answer_mean(states: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Mean of ``states`` [B, T, F] over the answer tokens, float64 [B, F]; NaN without any."""
    answers = (batch["labels"] != IGNORE).double().unsqueeze(1)
    return (answers @ states.double()).squeeze(1) / answers.sum(dim=2)
