"""CoIDO's scorer: learns together with the model what is important and what is diverse.

The net S reads f, CLIP's image and text embedding side by side, and scalar scores s, each scaled to
[-1, 1] by its least and largest value over the pool:

    h = ReLU(A [ReLU(F f), ReLU(G s)]),  S = v (h + ReLU(R h))

with all layers of one width. In a batch w = softmax of S over its examples; with Self-Filter's loss
L1 (``train.self_filter``) and L2 the standard deviation, over the clusters of f that the batch has,
of the mean w in the cluster,

    loss = L1 / σ1² + L2 / (2 σ2²) + log σ1 + log σ2,    σ1 and σ2 learnt

S learns on a random part of the rows, then scores all of them: difficulty d_i = -S(f_i, s_i).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from coincide.data.score_table import read_columns
from coincide.ops.arrays import row_digests
from coincide.ops.kmeans import spherical_kmeans
from coincide.schema import Example, JointDifficulty, UserError
from coincide.system.files import sha256_file

if TYPE_CHECKING:
    from coincide.features.engine.shards import ShardedArray

ITERATIONS = 50
"""Of k-means, at most."""
BLOCK = 8192
"""Rows that the net scores at once."""

Regularize = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""Weights [B] of a batch -> a factor of its L1, and what is added to it."""


class JointScorer(nn.Module):
    """The net S on [B, D + C]: embeddings of width D, then C scalar scores. It starts at S = 0, so
    that what it gives is what was learnt.
    """

    def __init__(self, embedding: int, scalars: int, width: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.features = nn.Linear(embedding, width)
            self.scalars = nn.Linear(scalars, width)
            self.fusion = nn.Linear(2 * width, width)
            self.residual = nn.Linear(width, width)
            self.score = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.score.weight)
        self.log_sigma = nn.Parameter(torch.zeros(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """S, [B, 1]."""
        split = self.features.in_features
        both = [self.features(x[:, :split]).relu(), self.scalars(x[:, split:]).relu()]
        fused = self.fusion(torch.cat(both, dim=1)).relu()
        score: torch.Tensor = self.score(fused + self.residual(fused).relu())
        return score

    def regularize(self, clusters: torch.Tensor) -> Regularize:
        """For a batch whose examples are in ``clusters`` int64 [B]."""

        def regularized(weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            first, second = self.log_sigma
            spread = spread_over(weights, clusters)
            return (-2 * first).exp(), (-2 * second).exp() * spread / 2 + first + second

        return regularized

    def scores(self, x: np.ndarray) -> np.ndarray:
        """S of the rows of ``x`` [n, D + C], float64 [n]."""
        exact = copy.deepcopy(self).cpu().double()
        with torch.no_grad():
            blocks = [
                exact(torch.from_numpy(x[at : at + BLOCK]).double())[:, 0].numpy()
                for at in range(0, len(x), BLOCK)
            ]
        return np.concatenate(blocks) if blocks else np.empty(0)


def spread_over(weights: torch.Tensor, clusters: torch.Tensor) -> torch.Tensor:
    """Standard deviation (of all, not of a sample), over the clusters there are, of the mean of
    ``weights`` [B] in each. 0 with gradient 0 where the means are equal.
    """
    names, place = torch.unique(clusters, return_inverse=True)
    counts = torch.bincount(place, minlength=len(names)).to(weights.dtype)
    sums = weights.new_zeros(len(names)).index_add(0, place, weights)
    variance = (sums / counts).var(correction=0)
    return variance.clamp(min=torch.finfo(weights.dtype).tiny).sqrt()


def scorer_inputs(
    need: JointDifficulty, signals: Sequence[ShardedArray], examples: Sequence[Example]
) -> np.ndarray:
    """float32 [N, D + 1 + C]: the signals side by side, their cosine, and the table's columns, the
    scalars not yet scaled. NaN where a row has none.

    Raises UserError for a table that is not the one planned with, or does not fit.
    """
    image, text = (each[:] for each in signals)
    table = np.empty((len(examples), 0))
    if need.scores is not None:
        path = Path(need.scores)
        if sha256_file(path) != need.scores_sha256:
            raise UserError(f"{path} changed since the run was planned. Run the command again.")
        table = read_columns(path, examples)
    cosine = np.einsum("nd,nd->n", image, text)
    return np.concatenate([image, text, cosine[:, None], table], axis=1, dtype=np.float32)


def scale(x: np.ndarray, rows: np.ndarray) -> None:
    """Bring the columns of ``x`` [N, C] to [-1, 1] by least and largest value over ``rows``, in
    place; a column of one value becomes 0.
    """
    if not len(rows):
        return
    least, largest = x[rows].min(axis=0), x[rows].max(axis=0)
    extent = np.where(largest > least, largest - least, 1)
    x[:] = np.where(largest > least, 2 * (x - least) / extent - 1, 0)


def clusters_of(x: np.ndarray, rows: np.ndarray, need: JointDifficulty) -> np.ndarray:
    """The cluster of each of ``rows`` of the embeddings ``x`` [N, D], int64 [N], -1 elsewhere:
    spherical k-means of these rows, with as many clusters at most as they have distinct values.
    """
    found = np.full(len(x), -1, np.int64)
    count = min(need.clusters, len(np.unique(row_digests(x[rows]))))
    if count:
        _, found[rows] = spherical_kmeans(x[rows], count, ITERATIONS, need.seed)
    return found


def part_of(rows: np.ndarray, need: JointDifficulty) -> np.ndarray:
    """The rows that S learns on, ascending: the first of one permutation."""
    count = max(1, round(need.of_pool * len(rows)))
    return np.sort(np.random.default_rng(need.seed).permutation(rows)[:count])
