"""Print what spherical k-means costs, over faiss from the same start in the same run.

    python -m bench.kmeans                     # a tenth of LLaVA-665K's rows, minutes on two cores
    python -m bench.kmeans --full --iterations 1 --no-faiss --no-slope   # 665,298 x 2,048, K=10,000
    python -m bench.kmeans --processes 2
    python -m bench.kmeans --grid grid.jsonl   # small and large pools, see bench.kmeans_grid

The features are made here, fp16 on disk in shards: a common direction, topics whose sizes fall as
1/rank (the largest has 3 % of the rows, 20,000 of LLaVA-665K), and noise whose coordinates fall as
a power. Every measured clustering runs in a process of its own, from reading the first row to the
assignment; faiss-cpu (`pip install faiss-cpu`, no dependency of the project) is given the rows in
memory as float32, unit length, and timed without that. Both start from the same rows and take the
same number of iterations, all rows in each. Memory is the peak of what a process has of its own
(RssAnon + RssShmem), above it the pages of mapped files (RssFile).
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from bench.watch import memory
from coincide.features.engine.shards import ShardedArray, has_shard, write_shard
from coincide.ops.arrays import row_digests, tiles
from coincide.ops.kmeans import Iteration, kmeans_on, spherical_kmeans
from coincide.ops.kmeans.lloyd import start_centroids
from coincide.ops.kmeans.units import half_type
from coincide.store.provenance import environment

SHARD = 8192
LARGEST = 20_000 / 665_298
"""Share of the rows in the largest topic."""
SEED = 1234
LLAVA, ALL_OPEN = 665_298, 24_000_000


@dataclass(frozen=True)
class Size:
    """What is clustered."""

    rows: int
    width: int
    clusters: int
    iterations: int

    @property
    def passes(self) -> int:
        """Assignments: one an iteration and the last one."""
        return self.iterations + 1


@dataclass
class Measured:
    """Of one clustering in a process of its own."""

    seconds: float = 0.0
    objective: float = 0.0
    own: int = 0
    """Peak bytes of the process' own."""
    mapped: int = 0
    """Peak bytes of mapped files."""
    told: list[tuple[Iteration, float]] = field(default_factory=list)
    answer: str = ""
    """SHA-256 of centroids and assignment."""


# --- features ---------------------------------------------------------------------------------


def make(folder: Path, rows: int, width: int) -> None:
    """Write features fp16 [rows, width] in shards, each seeded by its number."""
    folder.mkdir(parents=True, exist_ok=True)
    random = torch.Generator().manual_seed(SEED)
    count = rows // 40
    weight = topic_weights(count)
    scale = (1 + torch.arange(width) / 16) ** -0.5
    common = torch.randn(width, generator=random) * scale
    topics = (torch.randn(count, width, generator=random) * scale).half()
    for shard in range(-(-rows // SHARD)):
        if not has_shard(folder, shard):
            random = torch.Generator().manual_seed(SEED + 1 + shard)
            n = min(SHARD, rows - shard * SHARD)
            topic = torch.multinomial(weight, n, replacement=True, generator=random)
            noise = torch.randn(n, width, generator=random) * scale
            values = normalize(common + topics[topic].float() + noise).half().numpy()
            write_shard(folder, shard, values, np.ones(n, bool))


def topic_weights(count: int) -> torch.Tensor:
    """Shares 1/(rank + s) of ``count`` topics with s such that the largest is ``LARGEST``."""
    low, high = 0.0, float(count)
    for _ in range(60):
        shift = (low + high) / 2
        weight = 1 / (torch.arange(1, count + 1) + shift)
        low, high = (shift, high) if weight[0] / weight.sum() > LARGEST else (low, shift)
    return weight / weight.sum()


class Part(ShardedArray):
    """The first rows of sharded features."""

    def __init__(self, folder: Path, rows: int) -> None:
        super().__init__(folder)
        self.shape = (min(rows, self.shape[0]), self.shape[1])


# --- what is measured -------------------------------------------------------------------------


def ours(folder: Path, size: Size, processes: int) -> Measured:
    """Our clustering."""
    x: Any = Part(folder, size.rows)
    found = Measured()
    started = time.perf_counter()

    def tell(iteration: Iteration) -> None:
        found.told.append((iteration, time.perf_counter() - started))

    arguments = (size.clusters, size.iterations, SEED)
    if processes == 1:
        centroids, assignment = spherical_kmeans(x, *arguments, on_iteration=tell)
    else:
        centroids, assignment = kmeans_on(["cpu"] * processes, x, *arguments)
    found.seconds = time.perf_counter() - started
    found.objective = objective(x, centroids, assignment)
    found.answer = hashlib.sha256(centroids.tobytes() + assignment.tobytes()).hexdigest()
    return found


def faiss(folder: Path, size: Size, processes: int) -> Measured:
    """faiss.Kmeans from the same start, and its nearest centroids."""
    x: Any = Part(folder, size.rows)
    found = Measured()
    start = start_centroids(x, row_digests(x), size.clusters, SEED).numpy()
    unit = np.empty(x.shape, np.float32)
    for row, tile in tiles(x):
        unit[row : row + len(tile)] = normalize(tile)[: len(unit) - row]
    started = time.perf_counter()
    centroids, nearest = faiss_clusters(unit, start, size, torch.get_num_threads())
    found.seconds = time.perf_counter() - started
    found.objective = objective(x, centroids, nearest)
    return found


def faiss_clusters(
    unit: np.ndarray, start: np.ndarray, size: Size, threads: int
) -> tuple[np.ndarray, np.ndarray]:
    """Centroids and assignment of faiss.Kmeans from ``start``."""
    import faiss

    faiss.omp_set_num_threads(threads)
    kmeans = faiss.Kmeans(
        size.width,
        size.clusters,
        niter=size.iterations,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=size.rows,
        seed=SEED,
    )
    kmeans.train(unit, init_centroids=start)
    return kmeans.centroids, kmeans.index.search(unit, 1)[1][:, 0]


def rates(folder: Path, size: Size, processes: int) -> dict[str, float]:
    """FLOP/s of a tile's product with all centroids, in float32 and in the half that is used."""
    unit = normalize(torch.randn(1024, size.width))
    centroids = normalize(torch.randn(size.clusters, size.width))
    flops = 2 * 1024 * size.width * size.clusters
    half = half_type(centroids.device)
    found = {}
    for name, kind in (("float32", torch.float32), ("half", half)):
        a, b = unit.to(kind), centroids.to(kind).T
        work = partial(torch.mm, a, b, out=a @ b)
        times = [seconds_of(work) for _ in range(7)]
        found[name] = flops / float(np.median(times[1:]))
    return found


def seconds_of(work: Callable[[], Any]) -> float:
    """Wall-clock seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def objective(x: Any, centroids: np.ndarray, assignment: np.ndarray) -> float:
    """Mean cosine of the rows to their centroids, in float64."""
    mean, total = torch.from_numpy(np.asarray(centroids)), 0.0
    for row, tile in tiles(x):
        unit = normalize(tile)[: len(x) - row]
        own = mean[torch.from_numpy(assignment[row : row + len(unit)].astype(np.int64))]
        total += float((unit * normalize(own)).sum(1).double().sum())
    return total / len(x)


# --- a process of its own ---------------------------------------------------------------------


def in_fresh_process(work: Callable[..., Any], *arguments: Any) -> Any:
    """What ``work`` returns from a fresh process with this one's threads; memory filled in."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(
        target=_watched, args=(work, arguments, torch.get_num_threads(), theirs)
    )
    process.start()
    theirs.close()
    try:
        return mine.recv()
    finally:
        process.join()


def _watched(work: Callable[..., Any], arguments: Any, threads: int, pipe: Any) -> None:
    torch.set_num_threads(threads)
    with memory() as peak:
        found = work(*arguments)
    if isinstance(found, Measured):
        found.own, found.mapped = peak["anon"], peak["file"]
    pipe.send(found)


# --- the command ------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> float | None:
    """Measure and print; returns faiss' time over ours."""
    asked = parse(arguments)
    torch.set_num_threads(asked.threads)
    if asked.grid:
        from bench.kmeans_grid import show_grid

        show_grid(asked.grid, asked.cells, asked.threads)
        return None
    size = Size(asked.rows, asked.width, asked.clusters, asked.iterations)
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary) / "features"
        in_fresh_process(make, folder, size.rows, size.width)
        rate = in_fresh_process(rates, folder, size, 1)
        show_setting(size, asked, rate)
        mine = in_fresh_process(ours, folder, size, 1)
        show_ours(size, mine, rate)
        if asked.processes > 1:
            show_processes(
                asked.processes, in_fresh_process(ours, folder, size, asked.processes), mine
            )
        ratio = None
        if asked.faiss:
            ratio = show_faiss(in_fresh_process(faiss, folder, size, 1), mine)
        if asked.slope:
            show_slopes(folder, size, mine)
        show_extrapolation(size, mine, rate)
    return ratio


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=LLAVA // 10)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--clusters", type=int, default=1000)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--full", action="store_true", help="LLaVA-665K: 665,298 rows, K=10,000")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--folder", type=Path, help="keep the features there, or read them")
    parser.add_argument("--grid", type=Path, help="measure a grid of sizes into this file")
    parser.add_argument("--cells", nargs="*", default=[], help="of the grid: ROWSxCOLUMNSxK")
    parser.add_argument("--no-faiss", dest="faiss", action="store_false")
    parser.add_argument("--no-slope", dest="slope", action="store_false")
    asked = parser.parse_args(arguments)
    if asked.full:
        asked.rows, asked.clusters = LLAVA, 10_000
    if asked.faiss and importlib.util.find_spec("faiss") is None:
        print("faiss is not installed (pip install faiss-cpu): no comparison")
        asked.faiss = False
    return asked


def show_setting(size: Size, asked: argparse.Namespace, rate: dict[str, float]) -> None:
    """Print machine, versions and data."""
    hardware = json.dumps(environment()["hardware"])
    print(f"device       {asked.threads} threads, {hardware}, torch {torch.__version__}")
    print(
        f"data         {size.rows:,} x {size.width:,} fp16, K = {size.clusters:,}, "
        f"{size.iterations} iterations and the last assignment"
    )
    print(
        f"products     {rate['float32'] / 1e9:.0f} GFLOP/s in float32, "
        f"{rate['half'] / 1e9:.0f} in {str(half_type(torch.device('cpu'))).removeprefix('torch.')}"
    )


def show_ours(size: Size, mine: Measured, rate: dict[str, float]) -> None:
    """Print seconds and FLOP rate of our k-means."""
    before = 0.0
    for iteration, at in mine.told:
        share = iteration.cosines / (size.rows * size.clusters)
        print(
            f"  {iteration.number:3d}  {share:6.3f} of N*K cosines  {at - before:7.2f} s  "
            f"{iteration.changed:8,} rows changed cluster"
        )
        before = at
    print(f"ours         {mine.seconds:8.2f} s, mean cosine {mine.objective:.6f}")
    print(f"memory       {mine.own / 2**20:,.0f} MiB own, {mine.mapped / 2**20:,.0f} MiB of files")
    computed = 2 * size.width * sum(i.cosines for i, _ in mine.told) / mine.seconds
    plain = 2.0 * size.width * size.rows * size.clusters * len(mine.told) / mine.seconds
    print(
        f"limit        {computed / 1e9:.0f} GFLOP/s of products, "
        f"{computed / rate['half']:.0%} of the half rate; as plain Lloyd in float32: "
        f"{plain / 1e9:.0f} GFLOP/s, {plain / rate['float32']:.2f} of the float32 rate"
    )


def show_processes(count: int, several: Measured, one: Measured) -> None:
    """Print the same for several processes."""
    print(
        f"{count} processes  {several.seconds:8.2f} s with their starting, "
        f"{several.own / 2**20:,.0f} MiB own together, "
        f"{'the same bytes' if several.answer == one.answer else 'OTHER BYTES'}"
    )


def show_faiss(theirs: Measured, mine: Measured) -> float:
    """Print faiss's seconds and objective beside ours; returns the ratio of seconds."""
    ratio = theirs.seconds / mine.seconds
    print(f"faiss        {theirs.seconds:8.2f} s, mean cosine {theirs.objective:.6f}, "
          f"{theirs.own / 2**20:,.0f} MiB own")  # fmt: skip
    print(f"time         faiss / ours {ratio:.2f}")
    print(f"objective    ours / faiss {mine.objective / theirs.objective:.6f}")
    return ratio


def show_slopes(folder: Path, size: Size, mine: Measured) -> None:
    """The same clusters from a quarter and a half of the rows."""
    points = [(size.rows, mine)]
    for divisor in (2, 4):
        less = Size(size.rows // divisor, size.width, size.clusters, size.iterations)
        points.insert(0, (less.rows, in_fresh_process(ours, folder, less, 1)))
    rows = np.log([n for n, _ in points])
    time_slope = np.polyfit(rows, np.log([m.seconds for _, m in points]), 1)[0]
    memory_slope = np.polyfit(rows, np.log([m.own for _, m in points]), 1)[0]
    print(
        f"slope        time {time_slope:.2f}, own memory {memory_slope:.2f} in log-log: "
        + ", ".join(f"{n:,} rows {m.seconds:.1f} s {m.own / 2**20:,.0f} MiB" for n, m in points)
    )


def show_extrapolation(size: Size, mine: Measured, rate: dict[str, float]) -> None:
    """Hours of 50 iterations at the speeds and shares measured here."""
    cosines = np.array([iteration.cosines for iteration, _ in mine.told])
    shares = cosines / (size.rows * size.clusters)
    searched = shares.sum() + max(0, 51 - len(shares)) * shares[-1]
    per_value, per_flop = fitted(size, cosines, np.array([at for _, at in mine.told]))
    print(
        f"basis        an iteration takes {per_value * 1e9:.2f} ns per number of the features and "
        f"a second per {1 / per_flop / 1e9:.0f} GFLOP of products (fit over the iterations);\n"
        f"             50 take {searched:.1f} x N*K cosines (share {shares[-1]:.3f} kept from "
        f"number {len(shares)} on), with {size.rows / size.clusters:.0f} rows per cluster"
    )
    for rows in (LLAVA, ALL_OPEN):
        for width in (2048, 20_480):
            flops = 2.0 * rows * 10_000 * width
            hours = (51 * per_value * rows * width + searched * per_flop * flops) / 3600
            print(
                f"  {rows:>12,} x {width:>6,}, K = 10,000: {hours:8.1f} h, no share below 1: "
                f"{51 * (per_value * rows * width + per_flop * flops) / 3600:8.1f} h, as plain "
                f"float32 products: {51 * flops / rate['float32'] / 3600:8.1f} h"
            )


def fitted(size: Size, cosines: np.ndarray, at: np.ndarray) -> tuple[float, float]:
    """Seconds per number of the features and per FLOP of an iteration, by least squares."""
    work = np.stack([np.full(len(cosines), size.rows * size.width), 2.0 * size.width * cosines], 1)
    scale = work.max(0)
    found = np.linalg.lstsq(work[1:] / scale, np.diff(at), rcond=None)[0] / scale
    return max(float(found[0]), 0.0), float(found[1])


if __name__ == "__main__":
    main()
