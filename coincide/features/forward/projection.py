"""Random projection of the pooled attention outputs, each layer's visual and language part apart.

Random signs keep cosines up to about 1 / sqrt(dimensions) (Johnson and Lindenstrauss 1984; signs:
Achlioptas 2003, theorem 1.1), and a part stays a part: transferability still reads the language
columns, and the visual half of a text-only row is still zero.

Signs rather than normal numbers, because they are bits of PCG64, whose stream numpy promises to
keep, while a normal number depends on the logarithm of the machine; and because sums of a vector's
entries, rounded to multiples of 2^-44, are exact in float64 whatever their order. So the projection
gives the same bits on a CPU and a GPU, alone or in any batch.
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
    """Random projection to ``dimensions``, split evenly over ``parts``: 2 for each layer."""

    dimensions: int
    seed: int
    parts: int

    @property
    def columns(self) -> int:
        """Columns of each part; what does not divide evenly is left out."""
        return self.dimensions // self.parts


QUANTUM = 2.0**-44
"""Sums of up to 2^16 entries of a unit vector stay below 2^8, hence 52 bits, and are exact."""


def signs(projection: Projection, layer: int, modality: int, hidden: int) -> np.ndarray:
    """The matrix of one part, int8 [hidden, ``projection.columns``] of -1 and 1.

    ``modality``: 0 visual, 1 language. Nothing else decides it, so any machine makes the same.
    """
    count = hidden * projection.columns
    generator = np.random.PCG64(np.random.SeedSequence([projection.seed, layer, modality]))
    words = generator.random_raw(-(-count // 64)).astype("<u8")
    bits = np.unpackbits(words.view(np.uint8), bitorder="little")[:count]
    return (1 - 2 * bits.astype(np.int8)).reshape(hidden, projection.columns)


def project(part: torch.Tensor, projection: Projection, layer: int, modality: int) -> torch.Tensor:
    """Unit or zero rows ``part`` [B, H] -> float64 [B, ``projection.columns``], not normalised."""
    matrix = _matrix(projection, layer, modality, part.shape[1], str(part.device))
    return ((part.double() / QUANTUM).round() * QUANTUM) @ matrix


@lru_cache(maxsize=256)
def _matrix(
    projection: Projection, layer: int, modality: int, hidden: int, device: str
) -> torch.Tensor:
    """float64 on ``device``: 17 MB for all parts of TinyLLaVA-2B at 1,024 dimensions."""
    import torch

    found = torch.from_numpy(signs(projection, layer, modality, hidden))
    return found.to(device=device, dtype=torch.float64)
