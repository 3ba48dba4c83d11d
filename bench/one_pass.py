"""Print what one pass for all methods costs, over the dearest single one.

    python -m bench.one_pass --rows 1000

The demo's data and models. A sweep over all methods reads the data once per model; the ratio says
how much more that takes than the pass of the method whose signals take longest.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import run as program
from coincide.experiment import Experiment
from coincide.features.extract import extract_all, extraction
from coincide.schema import Signal

METHODS = "coincide el2n perplexity semdedup d2_pruning self_sup clip_score self_filter".split()


def main() -> None:
    """Time every method's signals alone, then all together, each from nothing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        words = [f"data.n={rows}", f"paths.store={folder}"]
        runs = {m: program.compose_all([f"method={m}", *words])[0].experiment for m in METHODS}
        first = runs["coincide"]
        for step in (first.data, first.reference.step(), first.clip.step()):
            first.store.ensure(step)
        signals = {method: run.signals for method, run in runs.items()}
        everything = list(dict.fromkeys(s for found in signals.values() for s in found))
        seconds_of(first, everything)  # warm: imports, file cache
        alone = {method: seconds_of(first, found) for method, found in signals.items()}
        together = {
            model: seconds_of(first, [s for s in everything if s.model == model])
            for model in first.models
        }
    for method, taken in alone.items():
        print(f"{method:12s} {taken:7.2f} s  {', '.join(s.name for s in signals[method])}")
    for model, taken in together.items():
        print(f"all of {model:9s}{taken:5.2f} s")
    of_reference = [alone[m] for m in METHODS if signals[m][0].model == "reference"]
    print(f"all reference signals / dearest alone: {together['reference'] / max(of_reference):.2f}")
    print(f"all signals / dearest alone: {sum(together.values()) / max(alone.values()):.2f}")


def seconds_of(run: Experiment, signals: Sequence[Signal]) -> float:
    """Wall-clock seconds of the passes that ``signals`` need, nothing cached."""
    shutil.rmtree(Path(run.store.root) / "features", ignore_errors=True)
    started = time.perf_counter()
    wanted = [extraction(s, run.models[s.model], run.source, run.features) for s in signals]
    extract_all(run.store, wanted)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
