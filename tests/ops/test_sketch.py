"""Sketches of gradients: products are kept in the mean, signs follow from seed and name."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from coincide.ops import sketch
from coincide.ops.sketch import MatrixShape


@pytest.mark.parametrize("kind", ["hashed", "flat", "per_module"])
def test_products_of_sketches_are_right_in_the_mean_over_seeds(kind: sketch.SketchKind) -> None:
    """And of ``hashed`` as near to it as with a dense matrix of as many numbers."""
    matrices = [MatrixShape("a", 4, 40), MatrixShape("b", 4, 90), MatrixShape("c", 3, 200)]
    rng = torch.Generator().manual_seed(0)
    parts = [torch.randn(2, m.rank, m.width, generator=rng, dtype=torch.float64) for m in matrices]
    parts = [p + 0.5 * p[:1] for p in parts]
    exact = float(sum((p[0] * p[1]).sum() for p in parts))
    size = float(np.prod([sum(float(p[i].square().sum()) for p in parts) for i in (0, 1)]) ** 0.5)
    found = []
    for seed in range(200):
        made = sketch.start(kind, 8 if kind == "per_module" else 96, seed, 2, parts[0])
        for matrix, part in zip(matrices, parts, strict=True):
            made.add(matrix, part)
        one, other = made.result()
        found.append(float(one @ other))
    error = np.array(found) - exact
    deviation = float(error.std())
    assert abs(error.mean()) < 4 * deviation / 200**0.5
    if kind != "per_module":
        assert deviation < 1.2 * size * (2 / 96) ** 0.5


def test_signs_and_places_follow_from_seed_and_name_alone() -> None:
    assert sketch.signs(1, "a", 0, 70).tolist() == sketch.signs(1, "a", 0, 90)[:70].tolist()
    assert sketch.signs(1, "a", 0, 64).tolist() != sketch.signs(2, "a", 0, 64).tolist()
    assert sketch.signs(1, "a", 0, 64).tolist() != sketch.signs(1, "b", 0, 64).tolist()
    assert sketch.signs(0, "model.layers.0.lora_A", 1, 16).tolist() == SIGNS


SIGNS = [1, -1, 1, -1, -1, 1, 1, -1, -1, -1, 1, 1, -1, -1, -1, 1]
