"""What spherical k-means remembers of every row between iterations: 44 bytes a row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass
class RowBounds:
    """Assignment and bounds of n rows, the first of which has index ``first``."""

    first: int
    centre: torch.Tensor
    """float32 [D], subtracted from the centroids before they are rounded; any point is valid."""
    nearest: np.ndarray
    """int64 [n], cluster of each row; -1 before the first search."""
    cosine: np.ndarray
    """float32 [n], cosine to the own centroid; NaN if that moved since, or if it is not known."""
    near: np.ndarray
    """float64 [n], radians: upper bound on the angle to the own centroid."""
    far: np.ndarray
    """float64 [n], radians: lower bound on the angle to all others; negative if unknown."""
    base: np.ndarray
    """float32 [n], the row's product with ``centre``; NaN if not known."""
    lost: np.ndarray
    """float32 [n], length of the rounding error of the row in half precision."""

    @staticmethod
    def unknown(first: int, last: int, centre: torch.Tensor) -> RowBounds:
        """Rows ``first`` to ``last`` before the first search."""
        n = last - first
        blank = [np.full(n, np.nan, np.float32) for _ in range(3)]
        nearest, far = np.full(n, -1, np.int64), np.full(n, -np.pi)
        return RowBounds(first, centre, nearest, blank[0], np.full(n, np.pi), far, *blank[1:])

    def put(self, row: int, cluster: int) -> None:
        """Force ``row`` into ``cluster``; its bounds are reset, so the next search is complete."""
        self.nearest[row], self.cosine[row] = cluster, np.nan
        self.near[row], self.far[row] = np.pi, -np.pi

    def recentre(self, centre: torch.Tensor) -> None:
        """Replace ``centre``; products with the old one are forgotten."""
        self.centre = centre
        self.base[:] = np.nan
