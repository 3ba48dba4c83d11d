"""What spherical k-means keeps of every row from one iteration to the next: 44 bytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass
class RowBounds:
    """What is known of the rows ``first, first + 1, ...`` from one iteration to the next."""

    first: int
    centre: torch.Tensor
    """float32 [D], taken off the centroids before they lose precision; any point will do."""
    nearest: np.ndarray
    """int64 [n], the cluster; -1 before the first search."""
    cosine: np.ndarray
    """float32 [n] to the own centroid; NaN where it moved since, or is not known."""
    near: np.ndarray
    """float64 [n], radians: the own centroid is no farther."""
    far: np.ndarray
    """float64 [n], radians: no other centroid is nearer; negative where nothing is known."""
    base: np.ndarray
    """float32 [n], the row's product with the centre; NaN where it is not known."""
    lost: np.ndarray
    """float32 [n], the length of what the row loses in half precision."""

    @staticmethod
    def unknown(first: int, last: int, centre: torch.Tensor) -> RowBounds:
        """Rows of which nothing is known yet."""
        n = last - first
        blank = [np.full(n, np.nan, np.float32) for _ in range(3)]
        nearest, far = np.full(n, -1, np.int64), np.full(n, -np.pi)
        return RowBounds(first, centre, nearest, blank[0], np.full(n, np.pi), far, *blank[1:])

    def put(self, row: int, cluster: int) -> None:
        """Move a row to a cluster by force; it is searched for in full next time."""
        self.nearest[row], self.cosine[row] = cluster, np.nan
        self.near[row], self.far[row] = np.pi, -np.pi

    def recentre(self, centre: torch.Tensor) -> None:
        """Take another centre."""
        self.centre = centre
        self.base[:] = np.nan
