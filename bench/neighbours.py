"""All nearest neighbours (D2's graph, Self-Filter's lists): clock, memory and slope.

    python -m bench.neighbours                            # 12,500 to 50,000 rows: minutes
    python -m bench.neighbours --rows 100000 --data clusters noise --before ../before
    python -m bench.neighbours --rows 665298 --dim 2048   # LLaVA-665K's size

``--before`` is another checkout, whose search takes its turn on the same rows, in a process of its
own. Rows are fp16 of unit length in shards. ``clusters``: heavy-tailed clusters, 66 rows each on
average and at most a twentieth of all, around centres with a common direction; what a row differs
by from its centre falls over 256 directions, and 0.3 of it is noise. ``noise``: directions drawn
evenly, where no bound and no order of rows helps. With ``--append`` each figure is added to a file
as soon as it is known, so a run may be cut into parts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

USES = {"d2": ("sqeuclidean", 5), "self_filter": ("cosine", 64)}
"""Method -> its metric and how many neighbours it asks for."""


def main(words: Sequence[str] | None = None) -> None:
    """Make the rows, search them in a child for each build, print."""
    asked = parsed(words)
    if asked.child:
        print(json.dumps(searched(asked.child, asked.use[0])))
        return
    describe()
    for data in asked.data:
        for use in asked.use:
            table(asked, data, use)


def table(asked: argparse.Namespace, data: str, use: str) -> None:
    """All sizes of one kind of rows and one method, and the slope over them."""
    builds = {"now": Path(__file__).parents[1]}
    if asked.before:
        builds["before"] = asked.before.resolve()
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in builds}
    for rows in asked.rows:
        with tempfile.TemporaryDirectory(dir=asked.scratch) as scratch:
            folder = Path(scratch) / "x"
            make_rows(folder, rows, asked.dim, data)
            for name, place in builds.items():
                one = {"data": data, "use": use, "rows": rows, "dim": asked.dim, "build": name,
                       **in_child(place, folder, use)}  # fmt: skip
                found[name].append(one)
                say(one, asked.append)
        if asked.before:
            say_ratio(found["now"][-1], found["before"][-1])
    if len(asked.rows) > 1:
        now = found["now"]
        for what in ("cpu", "anon"):
            line = np.polyfit(np.log(asked.rows), np.log([one[what] for one in now]), 1)
            print(f"  slope of {'core seconds' if what == 'cpu' else 'memory'}: {line[0]:.2f}")


def say(one: dict[str, Any], append: Path | None) -> None:
    """Print one figure; keep it if asked to."""
    print(
        f"{one['data']:9s} {one['use']:12s} {one['rows']:8,} x {one['dim']:5,} {one['build']:7s}"
        f"{one['wall']:9.1f} s {one['cpu']:9.1f} core s {one['anon'] / 2**20:7.0f} MiB held "
        f"{one['all'] / 2**20:7.0f} with files",
        flush=True,
    )
    if append:
        with append.open("a", encoding="utf-8") as file:
            file.write(json.dumps(one) + "\n")


def say_ratio(now: dict[str, Any], before: dict[str, Any]) -> None:
    """How much faster, and whether the answer is the same."""
    same = "the same" if now["neighbours"] == before["neighbours"] else "OTHER"
    bytes_of = "the same" if now["distances"] == before["distances"] else "other"
    print(
        f"  before / now: {before['wall'] / now['wall']:.2f} by the clock, "
        f"{before['cpu'] / now['cpu']:.2f} of the cores; {same} neighbours, {bytes_of} distances"
    )


def make_rows(folder: Path, rows: int, dim: int, data: str) -> None:
    """Write the shards."""
    from bench.made import cluster_sizes, make
    from coincide.features.engine.shards import write_shard

    if data == "clusters":
        make(folder, cluster_sizes(rows, rows // 66, rows // 20), 1, dim)
        return
    folder.mkdir()
    random = np.random.default_rng(0)
    for shard, start in enumerate(range(0, rows, 1024)):
        x = random.standard_normal((min(1024, rows - start), dim), np.float32)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        write_shard(folder, shard, x.astype(np.float16), np.ones(len(x), bool))


def in_child(place: Path, folder: Path, use: str) -> dict[str, Any]:
    """The search by the checkout at ``place``."""
    words = [sys.executable, __file__, "--child", str(folder), "--use", use]
    done = subprocess.run(
        words, stdout=subprocess.PIPE, check=True, text=True,
        env={**os.environ, "PYTHONPATH": str(place)},
    )  # fmt: skip
    return dict(json.loads(done.stdout.splitlines()[-1]))


def searched(folder: Path, use: str) -> dict[str, Any]:
    """Seconds, memory and hashes of the answer."""
    import hashlib

    sys.path[0] = os.environ["PYTHONPATH"]
    from bench.watch import clock, memory
    from coincide.features.engine.shards import ShardedArray
    from coincide.ops.knn import knn

    metric, k = USES[use]
    x = ShardedArray(folder)
    knn(np.eye(9, dtype=np.float32), 2)  # imports
    with memory() as peak, clock() as spent:
        found, distances = knn(x, min(k, len(x) - 1), metric=metric)
    digests = [hashlib.sha256(part.tobytes()).hexdigest()[:12] for part in (found, distances)]
    return {"wall": spent.wall, "cpu": spent.cpu, **peak,
            "neighbours": digests[0], "distances": digests[1]}  # fmt: skip


def describe() -> None:
    """Print machine and versions."""
    import torch

    from bench.selection import processor

    print(
        f"{processor()}, {os.cpu_count()} cores; torch {torch.__version__} with "
        f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}; "
        f"numpy {np.__version__}; load {os.getloadavg()[0]:.1f}"
    )


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[12_500, 25_000, 50_000])
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--data", nargs="+", choices=("clusters", "noise"), default=["clusters"])
    parser.add_argument("--use", nargs="+", choices=tuple(USES), default=["d2"])
    parser.add_argument("--before", type=Path, help="another checkout, to compare with")
    parser.add_argument("--scratch", help="folder for the rows: 2 bytes x rows x dim")
    parser.add_argument("--append", type=Path, help="file to which every figure is added")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
