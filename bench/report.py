"""The report of 2,000 results, and of clusters by the ten thousand: seconds, memory, size of page.

    python -m bench.report                      # 2,000 results, 40,000 clusters of 665,298 rows
    python -m bench.report --results 200 --clusters 400 --rows 8000

Invented results (two data sets, two models, twenty methods, five budgets, five seeds) with what
their runs would have left in a store: subsets, 40 samples for each of three benchmarks, one
clustering per data set. Report and terminal table are made in a process of their own, as
``python -m coincide.report`` makes them. Where a Chromium is installed, the page is opened in it:
time to first paint and to the end of loading.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.watch import clock, memory
from coincide.ledger.files import write_result
from coincide.ledger.result import Result
from tests.report.browser import browser, installed
from tests.report.fixture import METHODS, SOURCES, result
from tests.report.shelf import fill

BUDGETS, SEEDS = (0.05, 0.1, 0.2, 0.4, 0.6), 5
LETTERS = 600
"""Of an answer: a row is then as long as one of LLaVA-665K by the middle."""


def main(words: Sequence[str] | None = None) -> None:
    """Make ledger and store, then the report, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=int, default=2_000)
    parser.add_argument("--clusters", type=int, default=40_000)
    parser.add_argument("--rows", type=int, default=665_298)
    parser.add_argument("--scratch", help="folder for ledger and store")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args(words)
    if asked.child:
        print(json.dumps(reported(asked.child)))
        return
    with tempfile.TemporaryDirectory(dir=asked.scratch) as scratch:
        folder = Path(scratch)
        ledger(folder, asked.results, asked.clusters, asked.rows)
        done = subprocess.run(
            [sys.executable, "-m", "bench.report", "--child", str(folder)],
            stdout=subprocess.PIPE, check=True, text=True,
        )  # fmt: skip
        found = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{asked.results:,} results, {asked.clusters:,} clusters of {asked.rows:,} rows: "
            f"{found['wall']:.1f} s, {found['cpu']:.1f} core s, {found['anon'] / 2**20:,.0f} MiB "
            f"held ({found['all'] / 2**20:,.0f} with files), page {found['bytes'] / 1e6:.1f} MB"
        )
        painted(folder)


def ledger(folder: Path, results: int, clusters: int, rows: int) -> None:
    """Write ``results`` of them into ``folder``, with their store."""
    dice = random.Random(1)
    names = [*METHODS, *(f"method_{i:02d}" for i in range(20 - len(METHODS)))]
    kinds = [(data, target) for data in ("llava", "vision_flan") for target in ("tiny", "wide")]
    sweep = [(name, budget) for name in names for budget in BUDGETS]
    plan = [(*kind, *one, seed) for one in sweep for kind in kinds for seed in range(SEEDS)]
    full = [(*kind, "full", 1.0, seed) for kind in kinds for seed in range(2)]
    runs = [invented(dice, rows, *one) for one in [*full, *plan][:results]]
    for run in fill(folder / "store", runs, clusters=clusters, rows=rows, letters=LETTERS):
        write_result(folder / "ledger", run)


def invented(
    dice: random.Random, rows: int, data: str, target: str, method: str, budget: float, seed: int
) -> Result:
    """One result; no number of it was measured."""
    values = tuple(dice.gauss(t - 14 * (1 - budget) + len(method) % 4, 1.2) for t in (82, 64, 93))
    k = round(rows * budget)
    shares = [dice.uniform(0.5, 3) for _ in SOURCES]
    counts = [int(k * share / sum(shares)) for share in shares]
    counts[0] += k - sum(counts)
    made = result(method, seed, values, budget=budget, data=data, target=target, k=k,
                  composition=dict(zip(SOURCES, counts, strict=True)))  # fmt: skip
    return replace(made, config={**made.config, "data": {"name": data, "n": rows}})


def reported(folder: Path) -> dict[str, float]:
    """Seconds and bytes of the command."""
    from coincide.report.__main__ import main as command

    words = [str(folder / "ledger"), "--store", str(folder / "store"), "--out", str(folder)]
    with memory() as peak, clock() as spent:
        command(words)
    size = (folder / "report.html").stat().st_size
    return {"wall": spent.wall, "cpu": spent.cpu, **peak, "bytes": size}


def painted(folder: Path) -> None:
    """Print when a browser shows the page."""
    program = installed()
    if program is None:
        print("no Chromium on the PATH: the page was not opened")
        return
    with browser(program, folder / "profile") as tab:
        for width in (1400, 420):
            tab.open(folder / "report.html", width)
            first = tab.ask("performance.getEntriesByName('first-contentful-paint')[0]?.startTime")
            loaded = tab.ask("performance.now()")
            wide = tab.ask("document.documentElement.scrollWidth")
            shown = "n/a" if first is None else f"{first:.0f} ms"
            print(
                f"  {width} pixels: first paint after {shown}, all of it after {loaded:.0f} ms; "
                f"the page is {wide} pixels wide"
            )


if __name__ == "__main__":
    main()
