"""Print what the evaluation engine changes in half precision, on a trained model and real answers.

    python -m bench.half                        # trains the demo's model first, minutes on a CPU
    python -m bench.half --store store          # with what is cached there

The demo's target, finetuned on random rows, answers the demo's benchmarks in bfloat16
(``eval.dtype``) one prompt at a time (``eval.engine=plain``) and with shared prefixes in batches
(``prefix``), each a run of its own. In float32 the answers are equal, which the tests hold; here
sums of another order round otherwise.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from coincide.ledger.files import read_ledger
from coincide.ledger.result import Result
from launch.snapshot import PROJECT

ENGINES = ("plain", "prefix")


def main() -> None:
    """Run both engines and compare answers and scores by benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--store", type=Path, help="a store to use; by default a temporary one")
    parser.add_argument("--method", default="random", help="whose subset the model is finetuned on")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = (asked.store or Path(folder) / "store").absolute()
        plain, prefix = (run(asked.method, engine, store, Path(folder)) for engine in ENGINES)
        compare(plain, prefix, store)


def run(method: str, engine: str, store: Path, folder: Path) -> Result:
    """The result of one run; its other artifacts are shared with the other run."""
    ledger = folder / engine
    words = [f"method={method}", "seed=0", "eval.dtype=bfloat16", f"eval.engine={engine}"]
    words += [f"paths.store={store}", f"paths.ledger={ledger}", f"paths.reports={folder}/reports"]
    stages = "stages=[features,select,train,evaluate]"
    subprocess.run([sys.executable, str(PROJECT / "run.py"), *words, stages], check=True)
    (result,) = read_ledger(ledger)
    return result


def compare(plain: Result, prefix: Result, store: Path) -> None:
    """Print a line a benchmark: equal answers, its first score with both, and their difference."""
    print(
        f"{'benchmark':12s} {'equal answers':>14s} {'plain':>7s} {'prefix':>7s} {'difference':>11s}"
    )
    same = asked = 0
    gaps = []
    firsts = [{score.benchmark: score for score in run.scores[::-1]} for run in (plain, prefix)]
    for name, one in reversed(firsts[0].items()):
        other = firsts[1][name]
        first, second = (answers(store / str(score.samples)) for score in (one, other))
        equal = sum(first[number] == second[number] for number in first)
        same, asked = same + equal, asked + len(first)
        if one.value is None or other.value is None:
            continue
        gaps.append(other.value - one.value)
        print(
            f"{name:12s} {f'{equal} of {len(first)}':>14s} {one.value:7.3f} "
            f"{other.value:7.3f} {gaps[-1]:+11.3f}"
        )
    mean, most = sum(gaps) / len(gaps), max(map(abs, gaps))
    print(f"{same:,} of {asked:,} answers are equal ({same / asked:.2%})")
    print(f"scores (0 to 1) differ by {mean:+.4f} in the mean, {most:.4f} at most")


def answers(folder: Path) -> dict[int, str]:
    """The answer to each document of the evaluation in ``folder``."""
    lines = (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    return {record["doc_id"]: record["answer"] for record in map(json.loads, lines)}


if __name__ == "__main__":
    main()
