"""Random projection of the pooled attention outputs; visual and language part of each layer
separately.

Multiplying with random signs preserves cosines up to about 1 / sqrt(dimensions) (Johnson and
Lindenstrauss 1984; signs: Achlioptas 2003, theorem 1.1). Parts stay separate: transferability still
reads the language columns, and the visual half of a text-only row is still zero.

Signs rather than normal numbers, because signs are bits of PCG64, whose stream numpy guarantees,
while a normal number depends on the machine's logarithm; and because sums of a vector's entries,
rounded to multiples of 2^-44, are exact in float64 in any order. So the projection gives the same
bits on a CPU and a GPU, alone or in any batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Projection:
    """Random projection to ``dimensions`` columns, divided evenly among ``parts`` (2 for each
    layer).
    """

    dimensions: int
    seed: int
    parts: int

    @property
    def columns(self) -> int:
        """Columns of each part, ``dimensions // parts``."""
        return self.dimensions // self.parts


QUANTUM = 2.0**-44
"""Sums of up to 2^16 entries of a unit vector stay below 2^8, hence 52 bits, and are exact."""


def signs(projection: Projection, layer: int, modality: int, hidden: int) -> np.ndarray:
    """The projection matrix of one part, int8 [hidden, ``projection.columns``] of -1 and 1.

    ``modality``: 0 visual, 1 language. It depends on the arguments alone, so it is the same on
    every machine.
    """
    count = hidden * projection.columns
    generator = np.random.PCG64(np.random.SeedSequence([projection.seed, layer, modality]))
    words = generator.random_raw(-(-count // 64)).astype("<u8")
    bits = np.unpackbits(words.view(np.uint8), bitorder="little")[:count]
    return (1 - 2 * bits.astype(np.int8)).reshape(hidden, projection.columns)


def project(part: torch.Tensor, projection: Projection, layer: int, modality: int) -> torch.Tensor:
    """Project rows ``part`` [B, H] of unit norm (or zero): float64 [B, ``projection.columns``].

    The result is not normalised.
    """
    matrix = _matrix(projection, layer, modality, part.shape[1], str(part.device))
    return ((part.double() / QUANTUM).round() * QUANTUM) @ matrix


@lru_cache(maxsize=256)
def _matrix(
    projection: Projection, layer: int, modality: int, hidden: int, device: str
) -> torch.Tensor:
    """:func:`signs` as float64 on ``device``: 17 MB for all parts of TinyLLaVA-2B at 1,024
    dimensions.
    """
    import torch

    found = torch.from_numpy(signs(projection, layer, modality, hidden))
    return found.to(device=device, dtype=torch.float64)
