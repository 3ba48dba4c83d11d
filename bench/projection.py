"""Print what a random projection of COINCIDE's features saves, and what it changes.

    python -m bench.projection       # made rows, as wide as TinyLLaVA-2B's: 5 x 2 x 2,048 columns
    python -m bench.projection --data demo --dimensions 480 240    # what the demo's reference reads

Disk of the features, seconds of reading them off a batch, of k-means and of selecting; then how far
clusters and subset agree with those of the features as they are: adjusted Rand index of the two
clusterings (scikit-learn), and the share of the subset that both have. Beside them stand two
measures of what such figures mean: the features as they are, clustered from another start (k-means
itself is that uncertain), and the overlap that chance gives. "In same clusters": what is shared
when the projected features select within the clusters of the others, so that k-means has no part
in it: how many each cluster gives, which transferability and density decide, and which rows.

Made rows have a visual concept and a skill, both heavy-tailed, each with a direction of its own in
every layer, beside a direction common to all and noise; one in sixteen has no image.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import torch

from coincide.features.engine.shards import ShardedArray, write_shard
from coincide.features.forward.contract import Tap
from coincide.features.signals.activations import Activations, modality_means
from coincide.method import select_coincide
from coincide.ops.kmeans import spherical_kmeans
from coincide.store.provenance import environment

LAYERS, HIDDEN = (3, 7, 11, 15, 19), 2048
ROWS_665K = 665_298
BLOCK = 500
"""Rows made at once, and to a shard."""
T = TypeVar("T")


@dataclass
class Features:
    """An array on disk, and what it led to."""

    name: str
    x: ShardedArray
    reading: float
    """Seconds of reading it off what the pass captured; NaN where that was not timed."""
    assignment: np.ndarray
    rows: np.ndarray
    clustering: float
    selecting: float


def made_rows(rows: int) -> Iterator[Any]:
    """What the hooks of a pass would leave behind: per layer, means of both modalities [B, H]."""
    random = np.random.default_rng(0)
    kinds = {0: _labels(rows, 60, random), 1: _labels(rows, 40, random)}
    common = random.standard_normal((len(LAYERS), 2, HIDDEN))
    centres = [
        [random.standard_normal((kinds[m].max() + 1, HIDDEN)) for m in (0, 1)] for _ in LAYERS
    ]
    for start in range(0, rows, BLOCK):
        here = slice(start, min(start + BLOCK, rows))
        shown = np.arange(here.start, here.stop) % 16 > 0
        attention = {}
        for i, layer in enumerate(LAYERS):
            halves = []
            for modality in (0, 1):
                of = kinds[modality][here]
                noise = random.standard_normal((len(of), HIDDEN))
                value = 0.3 * (common[i, modality] + 0.5 * centres[i][modality][of] + 0.5 * noise)
                halves.append(torch.from_numpy(value if modality else value * shown[:, None]))
            attention[Tap(layer, "attention", modality_means)] = torch.stack(halves, dim=1)
        yield SimpleNamespace(tapped=attention)


def _labels(rows: int, kinds: int, random: np.random.Generator) -> np.ndarray:
    weights = 1 / np.arange(1, kinds + 1)
    return random.choice(kinds, rows, p=weights / weights.sum())


def write_made(folder: Path, rows: int, dimensions: Sequence[int | None]) -> dict[Any, float]:
    """Shards of the features under each projection; seconds that reading them off took."""
    seconds = dict.fromkeys(dimensions, 0.0)
    for index, captured in enumerate(made_rows(rows)):
        for wanted in dimensions:
            signal = Activations(LAYERS, wanted)
            took, values = timed(lambda s=signal, c=captured: s.read(c).numpy())  # type: ignore[misc]
            seconds[wanted] += took
            (folder / str(wanted)).mkdir(exist_ok=True)
            whole = np.ones(len(values), bool)
            write_shard(folder / str(wanted), index, values.astype(np.float16), whole)
    return seconds


def write_demo(folder: Path, rows: int, dimensions: Sequence[int | None]) -> dict[Any, Path]:
    """The same of the demo's reference model over its data, from one pass."""
    import run as program
    from coincide.features.extract import extract_all

    swept = ",".join("null" if d is None else str(d) for d in dimensions)
    words = [f"data.n={rows}", f"paths.store={folder}", f"method.projection={swept}"]
    runs = [job.experiment for job in program.compose_all(["-m", *words])]
    first = runs[0]
    for step in (first.data, first.reference.step()):
        first.store.ensure(step)
    wanted = [run.wanted[0] for run in runs]
    extract_all(first.store, wanted)
    found = [first.store.artifact(each.step).path for each in wanted]
    return dict(zip(dimensions, found, strict=True))


def evaluate(
    name: str, x: Any, reading: float, clusters: int, k: int, seed: int = 1234
) -> Features:
    """Cluster and select as ``method=coincide`` does."""
    clustering, (centroids, assignment) = timed(lambda: spherical_kmeans(x, clusters, 50, seed))
    selecting, rows = timed(lambda: select(x, assignment, centroids, k))
    return Features(name, x, reading, assignment, rows, clustering, selecting)


def select(x: Any, assignment: np.ndarray, centroids: np.ndarray, k: int) -> np.ndarray:
    """The released variant's rows."""
    return select_coincide(x, assignment, centroids, k, layers=len(LAYERS))


def means(x: ShardedArray, assignment: np.ndarray, clusters: int) -> np.ndarray:
    """Mean of each cluster's rows, float64 [K, D]."""
    total = np.zeros((clusters, x.shape[1]))
    for start in range(0, len(x), BLOCK):
        np.add.at(total, assignment[start : start + BLOCK], x[start : start + BLOCK].astype(float))
    return total / np.bincount(assignment, minlength=clusters).clip(1)[:, None]


def timed(call: Callable[[], T]) -> tuple[float, T]:
    """Seconds, and what came of it."""
    started = time.perf_counter()
    found = call()
    return time.perf_counter() - started, found


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Share of ``a`` that is in ``b``, two subsets of one size."""
    return len(np.intersect1d(a, b)) / len(a)


def allocation(a: np.ndarray, b: np.ndarray, assignment: np.ndarray) -> float:
    """Share of ``a`` that ``b`` takes from the same clusters, whichever rows it takes there."""
    first, second = (
        np.bincount(assignment[rows], minlength=assignment.max() + 1) for rows in (a, b)
    )
    return int(np.minimum(first, second).sum()) / len(a)


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Print; returns the overlap of each projection's subset with that of the whole features."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", choices=["made", "demo"], default="made")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--clusters", type=int, default=40)
    parser.add_argument("--budget", type=float, default=0.2)
    parser.add_argument("--dimensions", type=int, nargs="+", default=[2048, 1024])
    asked = parser.parse_args(arguments)
    wanted: list[int | None] = [None, *asked.dimensions]
    k = int(asked.budget * asked.rows)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if asked.data == "made":
            reading = write_made(folder, asked.rows, wanted)
            arrays = {d: ShardedArray(folder / str(d)) for d in wanted}
        else:
            arrays = {d: ShardedArray(p) for d, p in write_demo(folder, asked.rows, wanted).items()}
            reading = dict.fromkeys(wanted, float("nan"))
        return _compare(asked, arrays, reading, k)


def _compare(
    asked: Any, arrays: dict[Any, ShardedArray], reading: dict[Any, float], k: int
) -> dict[str, float]:
    clusters = asked.clusters
    whole = evaluate("as they are", arrays[None], reading[None], clusters, k)
    other = evaluate("another start", arrays[None], reading[None], clusters, k, seed=1)
    print(f"{asked.data}: {asked.rows:,} rows, {clusters} clusters, {k:,} selected")
    print(f"{environment()['hardware']}, torch {torch.__version__}, numpy {np.__version__}")
    print(f"{'':68s}{'agreement':^15s} in same clusters")
    print(HEADER)
    _line(whole, whole)
    _line(other, whole)
    found = {}
    for dimensions in asked.dimensions:
        x = arrays[dimensions]
        each = evaluate(f"{dimensions:,}", x, reading[dimensions], clusters, k)
        within = select(x, whole.assignment, means(x, whole.assignment, clusters), k)
        _line(each, whole, within)
        found[each.name] = overlap(whole.rows, each.rows)
    print(f"overlap by chance: {k / asked.rows:.3f}")
    return found


HEADER = (
    f"{'features':14s}{'columns':>8s}{'disk MB':>9s}{'665K GB':>9s}{'read s':>8s}"
    f"{'k-means s':>11s}{'select s':>9s}{'rand':>7s}{'overlap':>9s}{'counts':>8s}{'rows':>8s}"
)


def _line(each: Features, whole: Features, within: np.ndarray | None = None) -> None:
    from sklearn.metrics import adjusted_rand_score

    columns = each.x.shape[1]
    size = columns * each.x.dtype.itemsize
    shared = ""
    if within is not None:
        counts = allocation(whole.rows, within, whole.assignment)
        shared = f"{counts:8.3f}{overlap(whole.rows, within):8.3f}"
    print(
        f"{each.name:14s}{columns:8,d}{len(each.x) * size / 1e6:9.1f}"
        f"{ROWS_665K * size / 1e9:9.2f}{each.reading:8.2f}{each.clustering:11.2f}"
        f"{each.selecting:9.2f}{adjusted_rand_score(whole.assignment, each.assignment):7.3f}"
        f"{overlap(whole.rows, each.rows):9.3f}{shared}",
        flush=True,
    )


if __name__ == "__main__":
    main()
