"""One clustering by several processes of this machine, one per device; same bytes as with one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from coincide.ops.kmeans.lloyd import Iteration, spherical_kmeans
from coincide.system.processes import die_with_parent


def kmeans_on(
    devices: Sequence[str],
    x: Any,
    k: int,
    iterations: int,
    seed: int,
    *,
    keep: Path | None = None,
    on_iteration: Callable[[Iteration], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """:func:`~coincide.ops.kmeans.spherical_kmeans` on ``devices`` (torch names), one process each.

    Arguments, results and errors as there. ``x`` is pickled into the processes, so it should be an
    array that opens its files by itself. CPU processes share this process's number of threads.
    ``on_iteration`` is only called when there is a single device.
    """
    if len(devices) == 1:
        return spherical_kmeans(
            x, k, iterations, seed, device=devices[0], keep=keep, on_iteration=on_iteration
        )
    with tempfile.TemporaryDirectory(prefix="kmeans-") as name:
        folder = Path(name)
        threads = max(1, torch.get_num_threads() // len(devices))
        torch.multiprocessing.spawn(
            _rank,
            (os.getpid(), tuple(devices), threads, folder, x, k, iterations, seed, keep),
            nprocs=len(devices),
        )
        refusal = folder / "refusal.txt"
        if refusal.is_file():
            raise ValueError(refusal.read_text(encoding="utf-8"))
        return np.load(folder / "centroids.npy"), np.load(folder / "assignment.npy")


def _rank(
    rank: int,
    parent: int,
    devices: Sequence[str],
    threads: int,
    folder: Path,
    x: Any,
    k: int,
    iterations: int,
    seed: int,
    keep: Path | None,
) -> None:
    """One process; the first writes the answer, or what is wrong with the input, to ``folder``."""
    die_with_parent()
    if os.getppid() != parent:
        return  # it was killed while this one imported
    device = devices[rank]
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(threads)
    dist.init_process_group(
        "nccl" if device.startswith("cuda") else "gloo",
        init_method=f"file://{folder}/meet",
        rank=rank,
        world_size=len(devices),
    )
    try:
        centroids, assignment = spherical_kmeans(x, k, iterations, seed, device=device, keep=keep)
        if rank == 0:
            np.save(folder / "centroids.npy", centroids)
            np.save(folder / "assignment.npy", assignment)
    except ValueError as error:  # every rank finds the same
        if rank == 0:
            (folder / "refusal.txt").write_text(str(error), encoding="utf-8")
    finally:
        dist.destroy_process_group()
