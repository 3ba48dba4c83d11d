"""Print what selection costs on heavy-tailed features: time, memory, how both grow, agreement.

    python -m bench.selection                                             # minutes on two cores
    python -m bench.selection --rows 665298 --clusters 10000 --largest 20000 --knn-rows 32768

Features are made here, fp16 in shards as the feature pass writes them, with a known assignment: no
k-means is timed. Cluster sizes fall as a power of their rank. Every step runs in a process of its
own, whose resident memory is watched: ``anon`` is what it holds, ``file`` are pages of files and
libraries, which the kernel takes back when it needs them. What is slow by nature (the published
greedy, which rebuilds its sums; all pairs of neighbours) runs on a part, and says so.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.made import PARTS, Made, cluster_sizes, load, make
from bench.watch import clock, memory
from coincide.method import VARIANTS, pick_rows, plan_clusters
from coincide.ops.allocate import allocate
from coincide.ops.clusters import LazyRows, each_cluster
from coincide.ops.density import cluster_density
from coincide.ops.kernel import gaussian_kernel
from coincide.ops.mmd import KERNEL_ROWS, greedy_mmd, greedy_mmd_rows
from coincide.ops.products import products
from coincide.ops.threads import map_threads
from coincide.ops.transfer import transferability

LAYERS, TEMPERATURE, GAMMA, BUDGET = 4, 0.1, 1.0, 0.2
LLAVA, LLAVA_WIDTH, LARGE = 665_298, 20_480, 24_000_000
MIB = 2**20


# --- the steps, each in a process of its own --------------------------------------------------


def transfer_step(made: Made, asked: Any) -> dict[str, Any]:
    """Seconds and memory of the transferability of all clusters."""
    with clock() as spent:
        transferability(made.centroids, layers=LAYERS)
    return asdict(spent)


def density_step(made: Made, asked: Any) -> dict[str, Any]:
    """The same of their density, and the pairs of rows in it."""
    with clock() as spent:
        each_cluster(lambda _, rows: cluster_density(rows, GAMMA), made.x, made.members())
    return {**asdict(spent), "pairs": pairs(made.sizes)}


def selection_step(made: Made, asked: Any) -> dict[str, Any]:
    """All that the method does after k-means; then a fifth of every cluster instead."""
    k = int(BUDGET * len(made.x))
    data = made.x, made.assignment, made.centroids
    with clock() as planning:
        plan = plan_clusters(*data, k, LAYERS, TEMPERATURE, GAMMA, VARIANTS["released"])
    with clock() as picking:
        rows = pick_rows(made.x, plan, GAMMA)
    fifth = np.ceil(BUDGET * made.sizes).astype(np.int64)
    with clock() as fifths:
        pick_rows(made.x, replace(plan, target=fifth, counts=fifth, filled=fifth), GAMMA)
    assert len(set(rows.tolist())) == k
    cold = allocate(plan.score, made.sizes, k, TEMPERATURE / 1000)
    return {
        "plan": asdict(planning),
        "pick": asdict(picking),
        "fifth": asdict(fifths),
        "large": int((made.sizes > KERNEL_ROWS).sum()),
        "pairs": pairs(made.sizes),
        "exponent": float(np.nanmax(plan.score) / TEMPERATURE * 1000),
        "cold": int(cold.sum()),
    }


def prototype_step(made: Made, asked: Any) -> dict[str, Any]:
    """The same of the distances to prototypes (Self-Sup)."""
    from baselines.self_sup import prototype_distance
    from coincide.schema import Clusters

    with clock() as spent:
        prototype_distance(made.x, Clusters(made.centroids, made.assignment))
    return asdict(spent)


def semdedup_step(made: Made, asked: Any) -> dict[str, Any]:
    """The same of the largest similarities in clusters (SemDeDup)."""
    from baselines.semdedup import max_similarity

    order = np.random.default_rng(0).permutation(len(made.x))
    with clock() as spent:
        max_similarity(made.x, made.assignment, order, lengths="exact")
    return {**asdict(spent), "pairs": pairs(made.sizes)}


def knn_step(made: Made, asked: Any) -> dict[str, Any]:
    """The same of nearest neighbours, by number of rows, and those of faiss if it is there."""
    from coincide.ops.knn import knn

    some = np.sort(np.random.default_rng(0).permutation(len(made.x))[: asked.knn_rows])
    seconds = {}
    for rows in (len(some) // 2, len(some)):
        with clock() as spent:
            neighbors, _ = knn(LazyRows(made.x, some[:rows]), 5)
        seconds[rows] = asdict(spent)
    return {"seconds": seconds, **faiss_knn(made.x[some], neighbors)}


def faiss_knn(x: np.ndarray, ours: np.ndarray) -> dict[str, Any]:
    """The same neighbours by faiss's exact index, where faiss can be imported."""
    import torch

    try:
        import faiss
    except ImportError:
        return {}
    faiss.omp_set_num_threads(torch.get_num_threads())
    wide = x.astype(np.float32)
    with clock() as spent:
        index = faiss.IndexFlatL2(x.shape[1])
        index.add(wide)
        _, rows = index.search(wide, ours.shape[1] + 1)
    found = [[j for j in row if j != i][: ours.shape[1]] for i, row in enumerate(rows.tolist())]
    return {
        "faiss": faiss.__version__,
        "faiss_seconds": asdict(spent),
        "faiss_agreement": float((np.array(found) == ours).mean()),
    }


def brute_force_step(made: Made, asked: Any) -> dict[str, Any]:
    """The published forms beside ours, on clusters that they can still do."""
    members = made.members()
    small = [rows for rows in members if 50 <= len(rows) <= asked.published][:5]
    found: dict[str, Any] = {"sizes": [len(rows) for rows in small], "ours": 0.0, "published": 0.0}
    same = []
    for rows in small:
        kernel, m = gaussian_kernel(made.x[rows], GAMMA), int(np.ceil(BUDGET * len(rows)))
        with clock() as fast:
            ours = greedy_mmd(kernel, m)
        with clock() as slow:
            published = published_greedy(kernel, m)
        same.append(ours.tolist() == published)
        found["ours"] += fast.cpu
        found["published"] += slow.cpu
    rows = next(r for r in sorted(members, key=len)[::-1] if len(r) <= 8192)
    x, m = made.x[rows], int(np.ceil(BUDGET * len(rows)))

    def timed(kernel_rows: int) -> tuple[float, np.ndarray]:
        with clock() as spent:
            order = greedy_mmd_rows(x, GAMMA, m, kernel_rows=kernel_rows)
        return spent.cpu, order

    (held, one), (on_demand, other) = map_threads(timed, (8192, KERNEL_ROWS // 4), threads=1)
    largest = {"n": len(rows), "m": m, "held": held, "on_demand": on_demand}
    return {**found, "same_order": all(same), **largest, "same": bool((one == other).all())}


def published_greedy(kernel: np.ndarray, m: int) -> list[int]:
    """MMD² of every candidate, its sums rebuilt at every step, as the released code does."""
    chosen: list[int] = []
    whole = kernel.mean()
    for _ in range(m):
        best, pick = np.inf, -1
        for j in sorted(set(range(len(kernel))) - set(chosen)):
            s = [*chosen, j]
            value = whole + kernel[np.ix_(s, s)].mean() - 2 * kernel[:, s].mean()
            if value < best - 1e-12:
                best, pick = value, j
        chosen.append(pick)
    return chosen


STEPS: dict[str, Callable[[Made, Any], dict[str, Any]]] = {
    "transferability": transfer_step,
    "density": density_step,
    "selection": selection_step,
    "prototypes": prototype_step,
    "semdedup": semdedup_step,
    "knn": knn_step,
    "brute_force": brute_force_step,
}


def pairs(sizes: np.ndarray) -> float:
    """Pairs of rows within a cluster, each counted once."""
    return float((sizes.astype(np.float64) ** 2).sum() / 2)


def child(asked: Any) -> None:
    """Run one step here and print what it found as JSON. What is imported late is loaded before."""
    made = load(asked.folder, asked.parts)
    map_threads(lambda _: products(np.ones((64, 64)), np.ones((64, 64))), range(8))
    with memory() as peak:
        found = STEPS[asked.step](made, asked)
    print(json.dumps({**found, "peak": peak}))


def in_child(step: str, folder: Path, asked: Any, parts: int | None = None) -> dict[str, Any]:
    """One step in a fresh process."""
    words = [sys.executable, "-m", "bench.selection", "--step", step, "--folder", str(folder)]
    words += ["--knn-rows", str(asked.knn_rows), "--published", str(asked.published)]
    words += [] if parts is None else ["--parts", str(parts)]
    done = subprocess.run(words, stdout=subprocess.PIPE, check=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


# --- the report -------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the features, run every step, print."""
    asked = parsed(arguments)
    if asked.step:
        child(asked)
        return
    sizes = cluster_sizes(asked.rows, asked.clusters, asked.largest)
    with tempfile.TemporaryDirectory(dir=asked.scratch) as scratch:
        folder = Path(scratch) / "whole"
        with clock() as making:
            make(folder, sizes, 1, asked.dim)
        describe(asked, sizes, making.wall)
        found = {step: in_child(step, folder, asked) for step in STEPS}
        report(asked, found)
        extrapolate(asked, found)
        grown = Path(scratch) / "parts"
        rows = asked.growth_rows // PARTS
        make(grown, cluster_sizes(rows, rows // 66, rows // 10), PARTS, asked.dim)
        growth(grown, asked)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--clusters", type=int, default=600)
    parser.add_argument("--largest", type=int, default=5_000, help="rows of the largest cluster")
    parser.add_argument("--dim", type=int, default=2_048)
    parser.add_argument(
        "--knn-rows", type=int, default=8_192, help="rows whose neighbours are found"
    )
    parser.add_argument("--published", type=int, default=250, help="largest cluster for its greedy")
    parser.add_argument("--growth-rows", type=int, default=256_000)
    parser.add_argument("--scratch", help="folder for the features: 2 bytes x rows x dim")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--parts", type=int, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def describe(asked: Any, sizes: np.ndarray, seconds: float) -> None:
    """Print machine, versions and data."""
    import torch

    print(
        f"machine      {processor()}, {os.cpu_count()} cores; torch uses {torch.get_num_threads()}"
    )
    print(f"versions     torch {torch.__version__}, numpy {np.__version__}")
    print(
        f"data         {asked.rows:,} x {asked.dim:,} fp16, {asked.rows * asked.dim * 2 / 1e9:.2f} "
        f"GB, made in {seconds:.0f} s; {asked.clusters:,} clusters: largest {sizes[0]:,}, "
        f"median {int(np.median(sizes))}, {2 * pairs(sizes):.3g} kernel values"
    )


def processor() -> str:
    """Its name, where Linux tells."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def report(asked: Any, found: dict[str, dict[str, Any]]) -> None:
    """Print what was ``found``: step -> what its process measured."""
    whole, brute, knn = found["selection"], found["brute_force"], found["knn"]
    rate = 2 * found["density"]["pairs"] * asked.dim / found["density"]["cpu"] / 1e9
    print(f"\nseconds by the clock and of the cores together; load now {os.getloadavg()[0]:.1f}")
    for step in ("transferability", "density", "prototypes", "semdedup"):
        line(step, found[step])
    print(f"  density: {rate:.1f} GFLOP/s a core in float64, each pair once, all included")
    line("plan", whole["plan"], "transferability, density, greedy orders, allocation")
    line("pick", whole["pick"], f"{BUDGET:.0%} as allocated: rows on demand of large clusters")
    large = f"({whole['large']} above {KERNEL_ROWS} rows)"
    line("pick a fifth", whole["fifth"], f"instead, if every cluster gave {BUDGET:.0%} {large}")
    print(
        f"  at a thousandth of the temperature, exponents up to {whole['exponent']:.0f} (exp "
        f"overflows above 709), the allocation gives {whole['cold']:,} rows"
    )
    for rows, spent in knn["seconds"].items():
        rate = int(rows) ** 2 * asked.dim / spent["cpu"] / 1e9
        line(f"kNN {int(rows):,}", spent, f"{rate:.1f} GFLOP/s a core in float64")
    if "faiss" in knn:
        last = list(knn["seconds"].values())[-1]
        line("  faiss", knn["faiss_seconds"], f"faiss-cpu {knn['faiss']} IndexFlatL2, float32")
        print(
            f"  faiss / ours {knn['faiss_seconds']['cpu'] / last['cpu']:.2f}; "
            f"{knn['faiss_agreement']:.4%} of the neighbours agree"
        )
    print(
        f"published greedy on clusters of {brute['sizes']} rows {brute['published']:.1f} s, ours "
        f"{brute['ours']:.4f} s: ratio {brute['published'] / brute['ours']:,.0f}, "
        f"same order: {brute['same_order']}"
    )
    print(
        f"{brute['m']:,} of a cluster of {brute['n']:,}: kernel held {brute['held']:.1f} s, rows "
        f"on demand {brute['on_demand']:.1f} s, same order: {brute['same']}"
    )
    print("\nresident memory at its peak, MiB: held by the process, pages of files, both at once")
    for step, result in found.items():
        anon, file, both = (result["peak"][name] / MIB for name in ("anon", "file", "all"))
        print(f"  {step:16s} {anon:7.0f} {file:7.0f} {both:7.0f}")


def line(name: str, spent: dict[str, Any], note: str = "") -> None:
    """Print a step with its wall-clock and core seconds."""
    print(f"{name:16s} {spent['wall']:8.1f} s {spent['cpu']:8.1f} core s  {note}".rstrip())


def extrapolate(asked: Any, found: dict[str, dict[str, Any]]) -> None:
    """Print the core hours that the steps would take on larger data."""
    transfer, deduped = found["transferability"]["cpu"], found["semdedup"]["cpu"]
    greedy = found["selection"]["plan"]["cpu"] + found["selection"]["fifth"]["cpu"] - transfer
    rows, last = list(found["knn"]["seconds"].items())[-1]
    print("\nin core hours of this machine:  transferability  density, greedy  SemDeDup  all kNN")
    for name, n, width in (
        ("LLaVA-665K, projected", LLAVA, asked.dim),
        ("LLaVA-665K", LLAVA, LLAVA_WIDTH),
        ("24 million, projected", LARGE, asked.dim),
        ("24 million", LARGE, LLAVA_WIDTH),
    ):
        grown, wider = n / asked.rows, width / asked.dim
        neighbours = last["cpu"] * (n / int(rows)) ** 2
        seconds = (transfer * grown**2, greedy * grown, deduped * grown, neighbours)
        hours = "".join(f"{s * wider / 3600:15.2f}" for s in seconds)
        print(f"  {name:22s} K {asked.clusters * grown:9,.0f} {hours}")
    print(
        "  basis: the cluster sizes above with K in proportion to N, a fifth of each taken; time\n"
        "  as N x D, of transferability as K² x D, of all nearest neighbours as N² x D"
    )


def growth(folder: Path, asked: Any) -> None:
    """Slopes in log-log over 1, 2 and 4 parts with clusters of the same sizes."""
    print(f"\ngrowth over {PARTS} equal parts of {asked.growth_rows // PARTS:,} rows:")
    counts = (1, 2, PARTS)
    for step in ("density", "selection", "semdedup"):
        runs = [in_child(step, folder, asked, parts) for parts in counts]
        seconds = [r["cpu"] if "cpu" in r else r["plan"]["cpu"] + r["fifth"]["cpu"] for r in runs]
        held = [r["peak"]["anon"] for r in runs]
        print(
            f"  {step:10s} {', '.join(f'{s:.2f}' for s in seconds)} core s: slope "
            f"{slope(counts, seconds):.2f}; {', '.join(f'{m / MIB:.0f}' for m in held)} MiB held: "
            f"slope {slope(counts, held):.2f}"
        )


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Slope of the line through the logarithms of ``x`` and ``y``, by least squares."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


if __name__ == "__main__":
    main()
