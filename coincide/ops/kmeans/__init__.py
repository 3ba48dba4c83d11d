"""Spherical k-means: rows and centroids on the unit sphere, nearest by cosine.

COINCIDE and SemDeDup cluster with FAISS, whose versions give different subsets and which users
have seen collapse to one centroid. Here the answer depends on the rows, ``k``, ``iterations`` and
the seed alone: neither the block that is read at once nor the number of processes changes a byte.

``lloyd`` holds the iterations, ``nearest`` and ``search`` find the nearest centroid with few
distances, ``blocks`` holds or reads the rows, ``sums`` adds them exactly,
``processes`` the same clustering on several devices.
"""

from coincide.ops.kmeans.health import clustering_health
from coincide.ops.kmeans.lloyd import Iteration, spherical_kmeans
from coincide.ops.kmeans.processes import kmeans_on

__all__ = ["Iteration", "clustering_health", "kmeans_on", "spherical_kmeans"]
