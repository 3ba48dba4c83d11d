"""Spherical k-means beside faiss-cpu and ten lines of torch, over rows x columns x clusters.

    python -m bench.kmeans --grid grid.jsonl                           # all cells that are missing
    python -m bench.kmeans --grid grid.jsonl --cells 10000x64x100 50000x320x1000

Every cell runs in a process of its own and is appended to the file, so a grid can be cut and gone
on with. Ours, faiss and torch take turns; the least time of each counts (a first turn compiles
products). Ours begins at rows of any length, float16 in a memory map or float32 in memory; the
others are given unit rows float32 in memory, and their making is not in their time. Ours and faiss
stop when nothing changes, torch does not.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from bench.kmeans import (
    SEED,
    Part,
    Size,
    faiss_clusters,
    in_fresh_process,
    make,
    objective,
    rates,
    seconds_of,
)
from coincide.ops.arrays import row_digests
from coincide.ops.kmeans import spherical_kmeans
from coincide.ops.kmeans.lloyd import start_centroids

ROWS, WIDTHS, CLUSTERS = (10_000, 50_000, 200_000), (64, 320, 1024, 2048), (100, 1000, 3000)
ITERATIONS = 20
_TURNS, _ENOUGH = 5, 10.0
"""Turns at most; none begins after so many seconds."""


def grid() -> list[str]:
    """The names ``rows x columns x clusters`` of all cells, with at least three rows a cluster."""
    return [f"{n}x{d}x{k}" for n in ROWS for d in WIDTHS for k in CLUSTERS if n >= 3 * k]


def show_grid(file: Path, cells: Sequence[str], threads: int) -> None:
    """Measure the cells that ``file`` lacks and print its table."""
    known = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    done = {cell["cell"] for cell in known}
    for name in cells or grid():
        if name not in done:
            found = in_fresh_process(measured, name, threads)
            known.append(found)
            with file.open("a") as out:
                out.write(json.dumps(found) + "\n")
    print(table(known))


def measured(name: str, threads: int) -> dict[str, Any]:
    """Seconds and objectives of one cell."""
    rows, width, clusters = map(int, name.split("x"))
    size = Size(rows, width, clusters, ITERATIONS)
    with tempfile.TemporaryDirectory() as temporary:
        make(Path(temporary) / "shards", rows, width)
        np.save(Path(temporary) / "x.npy", Part(Path(temporary) / "shards", rows)[:])
        return _in_turns(name, np.load(Path(temporary) / "x.npy", mmap_mode="r"), size, threads)


def _in_turns(name: str, x: np.ndarray, size: Size, threads: int) -> dict[str, Any]:
    unit = normalize(torch.from_numpy(np.array(x)).float()).numpy()
    start = start_centroids(x, row_digests(x), size.clusters, SEED).numpy()
    told: list[float] = []
    arguments = (size.clusters, size.iterations, SEED)
    work: dict[str, Callable[[], Any]] = {
        "half": lambda: spherical_kmeans(
            x, *arguments, on_iteration=lambda i: told.append(i.cosines)
        ),
        "float": lambda: spherical_kmeans(unit, *arguments),
        "torch": partial(plain_lloyd, unit, start, size.iterations),
    }
    rate = rates(Path(), size, threads)
    try:
        work["faiss"] = partial(faiss_clusters, unit, start, size, threads)
        work["faiss"]()
    except ImportError:
        del work["faiss"]
    times: dict[str, list[float]] = {each: [] for each in work}
    answers: dict[str, Any] = {}

    def turn(each: str) -> None:
        answers[each] = work[each]()

    began = time.perf_counter()
    for number in range(_TURNS):
        if number and time.perf_counter() - began > _ENOUGH:
            break
        told.clear()
        for each in work:
            times[each].append(seconds_of(partial(turn, each)))
    return {
        "cell": name,
        "threads": threads,
        "torch_version": torch.__version__,
        "rates": rate,
        "first": {each: some[0] for each, some in times.items()},
        "seconds": {each: min(some) for each, some in times.items()},
        "objective": {each: objective(unit, *answer) for each, answer in answers.items()},
        "assignments": len(told),
        "searched": sum(told) / (size.rows * size.clusters),
    }


def plain_lloyd(
    unit: np.ndarray, start: np.ndarray, iterations: int
) -> tuple[np.ndarray, np.ndarray]:
    """Lloyd's algorithm as a user would write it in torch, on unit rows float32 in memory."""
    rows, centroids = torch.from_numpy(unit), torch.from_numpy(start)

    def nearest() -> torch.Tensor:
        return torch.cat([(part @ centroids.T).max(1)[1] for part in rows.split(4096)])

    for _ in range(iterations):
        centroids = normalize(torch.zeros_like(centroids).index_add_(0, nearest(), rows))
    return centroids.numpy(), nearest().numpy()


def table(cells: Sequence[dict[str, Any]]) -> str:
    """Markdown: milliseconds and how many times as fast ours is."""
    lines = [
        "| rows x columns x K | ours, float16 | ours, float32 | faiss | torch | faiss / ours "
        "| torch / ours | objective, ours / faiss | assignments | N K searched | float32, half "
        "GFLOP/s |",
        "| --- " + "| ---: " * 10 + "|",
    ]
    for cell in cells:
        seconds, reached = cell["seconds"], cell["objective"]
        ratio = {
            other: [seconds[other] / seconds[ours] for ours in ("half", "float")]
            for other in ("faiss", "torch")
            if other in seconds
        }
        against = [
            "{:.2f}, {:.2f}".format(*ratio[other]) if other in ratio else ""
            for other in ("faiss", "torch")
        ]
        lines.append(
            f"| {cell['cell'].replace('x', ' x ')} "
            + "".join(
                f"| {seconds[each] * 1000:,.0f} ms " if each in seconds else "| "
                for each in ("half", "float", "faiss", "torch")
            )
            + f"| {against[0]} | {against[1]} "
            + (f"| {reached['half'] / reached['faiss']:.6f} " if "faiss" in reached else "| ")
            + f"| {cell['assignments']} | {cell['searched']:.1f} | "
            + ", ".join(f"{rate / 1e9:.0f}" for rate in cell["rates"].values())
            + " |"
        )
    return "\n".join(lines)
