"""Exact nearest neighbours of every row, found with few exact distances.

Nearly all pairs are ruled out by inexact products whose errors are bounded (``screen``), with a
bound per row that falls as neighbours are found (``near``). What remains is measured exactly
(``distances``): a distance is the float32 number nearest to the true one, so neighbours are the
same on every processor.
"""

from coincide.ops.knn.search import knn

__all__ = ["knn"]
