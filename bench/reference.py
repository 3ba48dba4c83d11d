"""The published selection rule beside ours, from the same clusters to the same rows.

    python -m bench.reference                        # 10,000 rows in 40 clusters, one thread
    python -m bench.reference --largest 2000         # a heavier tail: minutes

COINCIDE's released code is not used: its steps are written here from their description, in whole
arrays of torch. All cosines of the centroids are held, the density of a cluster is the mean of its
whole kernel, and greedy MMD gathers the sums of every candidate anew at every step, O(n m³) for m
of n rows. The clusters are given; k-means is measured by ``bench.kmeans``.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from bench.made import Made, cluster_sizes, load, make
from bench.watch import clock
from coincide.method import VARIANTS, pick_rows, plan_clusters

LAYERS, TEMPERATURE, GAMMA, BUDGET, WIDTH = 5, 0.1, 1.0, 0.2, 320
_GATHERED = 2**24
"""Kernel values that are gathered at once, so that the published form fits the memory."""
_TIE = 1e-12


def main(arguments: Sequence[str] | None = None) -> float:
    """Measure and print; returns the published form's processor seconds over ours."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--clusters", type=int, default=40)
    parser.add_argument("--largest", type=int, default=1000)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "made"
        sizes = cluster_sizes(asked.rows, asked.clusters, asked.largest)
        make(folder, sizes, 1, WIDTH)
        made = load(folder, None)
        k = int(BUDGET * asked.rows)
        times = []
        for _ in range(3):
            with clock() as fast:
                mine = ours(made, k)
            times.append(fast.cpu)
        with clock() as slow:
            theirs = published(made, k)
    same = np.array_equal(np.sort(mine), np.sort(theirs))
    ratio = slow.cpu / min(times)
    print(
        f"{asked.rows:,} x {WIDTH}, {asked.clusters} clusters, the largest of {sizes.max():,} "
        f"rows, {k:,} selected; one thread, torch {torch.__version__}, numpy {np.__version__}, "
        f"Python {platform.python_version()}"
    )
    print(f"published    {slow.cpu:8.2f} s of the processor")
    print(f"ours         {min(times):8.2f} s, {ratio:.0f} times as fast")
    print("the same rows" if same else f"OTHER ROWS: {len(np.setdiff1d(mine, theirs))} differ")
    return ratio


def ours(made: Made, k: int) -> np.ndarray:
    """Rows selected by the product."""
    data = made.x, made.assignment, np.asarray(made.centroids)
    plan = plan_clusters(*data, k, LAYERS, TEMPERATURE, GAMMA, VARIANTS["released"])
    return pick_rows(made.x, plan, GAMMA)


def published(made: Made, k: int) -> np.ndarray:
    """Rows selected by the published steps; the rows in memory, float64."""
    x = torch.from_numpy(np.array(made.x[:])).double()
    members = [torch.from_numpy(rows) for rows in made.members()]
    transfer = _transferability(torch.from_numpy(np.array(made.centroids)).double())
    score = torch.stack(
        [s / _kernel(x[rows]).mean() for s, rows in zip(transfer, members, strict=True)]
    )
    selected: list[torch.Tensor] = []
    left = k
    order = torch.argsort(score, descending=True, stable=True).tolist()
    for place, cluster in enumerate(order):
        share = torch.softmax(score[order[place:]] / TEMPERATURE, 0)[0]
        rows = members[cluster]
        count = min(int(torch.round(left * share)), len(rows))
        left -= count
        selected.append(rows[_greedy(_kernel(x[rows]), count)] if count < len(rows) else rows)
    return torch.cat(selected).numpy()


def _transferability(centroids: torch.Tensor) -> torch.Tensor:
    """Mean cosine of the language halves, without pairs above 0.9."""
    half = centroids.view(len(centroids), LAYERS, 2, -1)[:, :, 1].flatten(1)
    cosine = torch.nn.functional.normalize(half) @ torch.nn.functional.normalize(half).T
    counted = cosine <= 0.9
    return (cosine * counted).sum(1) / counted.sum(1).clamp(min=1)


def _kernel(rows: torch.Tensor) -> torch.Tensor:
    return torch.exp(-(torch.cdist(rows, rows) ** 2) / (2 * GAMMA**2))


def _greedy(kernel: torch.Tensor, count: int) -> torch.Tensor:
    """Row by row the one of least MMD², whose sums are gathered anew for every candidate."""
    column = kernel.mean(0)
    chosen = torch.empty(0, dtype=torch.int64)
    for _ in range(count):
        free = torch.ones(len(kernel), dtype=torch.bool)
        free[chosen] = False
        candidates = free.nonzero()[:, 0]
        sets = torch.cat([chosen.expand(len(candidates), -1), candidates[:, None]], 1)
        step = max(_GATHERED // sets.shape[1] ** 2, 1)
        inside = torch.cat(
            [kernel[s[:, :, None], s[:, None, :]].mean((1, 2)) for s in sets.split(step)]
        )
        value = inside - 2 * column[sets].mean(1)  # less the mean of the kernel, alike for all
        best = (value <= value.min() + _TIE).nonzero()[0, 0]
        chosen = torch.cat([chosen, candidates[best : best + 1]])
    return chosen


if __name__ == "__main__":
    main()
