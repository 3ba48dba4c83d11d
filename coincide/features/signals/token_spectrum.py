"""How evenly the states of a row's tokens are spread over directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from coincide.features.passes.reference import ReferenceSignal

if TYPE_CHECKING:
    import torch

    from coincide.features.forward.contract import Captured

COLUMNS = ("entropy", "largest")
"""Entropy, in nats, and largest of the singular values as shares of their sum."""


@dataclass(frozen=True)
class TokenSpectrum(ReferenceSignal):
    """[N, 2], columns ``COLUMNS``, of the singular values of the states [T, H] after the final norm
    of all real tokens of a row (``coincide.ops.scores.spectrum``).
    """

    name: ClassVar[str] = "token_spectrum"
    dtype: ClassVar[str] = "float32"
    last_layer: ClassVar[bool] = True

    def width(self, hidden: int) -> int:
        return len(COLUMNS)

    def read(self, captured: Captured) -> torch.Tensor:
        import torch

        from coincide.ops.scores import spectrum

        real = captured.attention_mask.bool()
        return torch.stack([spectrum(h[mask]) for h, mask in zip(captured.hidden, real,
                                                                 strict=True)])  # fmt: skip
