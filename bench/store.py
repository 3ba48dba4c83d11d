"""``python -m bench.store``: what it costs to compare files with their manifests before reading.

A store of features is made, and read as selection reads it: with the bytes compared for the first
time, compared again (what they hash to is remembered), and not compared. Then a run in which
everything is there is timed beside the same run without any check, in turns.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from coincide.store import Artifact, Build, Step, Store, hashes

WITHOUT = (
    "import sys, runpy; from coincide.store import artifact\n"
    "artifact.Artifact.damaged = lambda self, *patterns: []\n"
    "artifact.Artifact.lacking = lambda self: []\n"
    "sys.argv = ['run.py', *sys.argv[1:]]; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
)
"""A run that compares nothing."""


def make(store: Store, shards: int, rows: int, columns: int) -> Step:
    """An artifact of ``shards`` files, float16 [rows, columns] each."""

    def build(build: Build) -> None:
        rng = np.random.default_rng(0)
        for i in range(shards):
            values = rng.integers(0, 2**15, (rows, columns), np.int16).view(np.float16)
            np.save(build.dir / f"values-{i:05d}.npy", values)

    config = {"shards": shards, "rows": rows, "columns": columns}
    step = Step("features", "made", 1, config, build, links=True)
    store.ensure(step)
    return step


def seconds(call: Callable[[], object]) -> float:
    """Seconds of ``call``."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def read(artifact: Artifact) -> None:
    """Every byte once."""
    for name in artifact.files:
        np.load(artifact.path / name).sum(dtype=np.float32)


def main(words: Sequence[str] | None = None) -> float:
    """Print the table; the ratio of a cached run with and without checks."""
    parser = argparse.ArgumentParser(prog="python -m bench.store", description=__doc__)
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--columns", type=int, default=4096)
    parser.add_argument("--runs", type=int, default=5, help="cached runs of each kind")
    parser.add_argument("--run", nargs="*", default=[], help="words of the cached run")
    parser.add_argument("--folder", type=Path, help="where that run's store is; made when absent")
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="bench-store-") as name:
        store = Store(Path(name) / "store")
        step = make(store, given.shards, given.rows, given.columns)
        artifact = store.artifact(step)
        size = sum(file["size"] for file in artifact.files.values())
        time.sleep(hashes.SETTLED)
        print(f"{size / 1e9:.2f} GB in {given.shards} files")
        hashes.forget(artifact.path)
        print(f"  compared for the first time  {seconds(lambda: store.verify(step)):8.3f} s")
        print(
            f"  one file of them             {seconds(lambda: store.verify(step, '*0.npy')):8.3f} s"
        )
        print(f"  compared again               {seconds(lambda: store.verify(step)):8.3f} s")
        print(f"  found (sizes)                {seconds(lambda: store.find(step)):8.3f} s")
        print(f"  read, not compared           {seconds(lambda: read(artifact)):8.3f} s")
        return _cached_runs(given.folder or Path(name) / "run", given.run, given.runs)


def _cached_runs(folder: Path, words: Sequence[str], runs: int) -> float:
    """Median CPU seconds of a run with all its artifacts there, with and without checks, in turns;
    their ratio.
    """
    root = Path(__file__).resolve().parents[1]
    folder.mkdir(parents=True, exist_ok=True)
    plain, without = [str(root / "run.py")], ["-c", WITHOUT, str(root / "run.py")]
    environment = {**os.environ, "PYTHONPATH": str(root)}

    def once(command: Sequence[str]) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, *command, *words], cwd=folder, env=environment, check=True,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    once(plain)  # makes what is not there
    took = [(once(plain), once(without)) for _ in range(runs)]
    checked, unchecked = (sorted(column)[runs // 2] for column in zip(*took, strict=True))
    print(f"cached run: {checked:.2f} s of CPU, without checks {unchecked:.2f} s")
    print(f"ratio {checked / unchecked:.3f}")
    return checked / unchecked


if __name__ == "__main__":
    main()
