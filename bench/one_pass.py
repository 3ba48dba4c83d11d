"""Print what one pass for all methods costs, over the dearest single one.

    python -m bench.one_pass                                      # a narrow model, minutes on a CPU
    python -m bench.one_pass --shape tinyllava_2b --rows 2000     # TinyLLaVA-2.0B's, on a GPU
    python -m bench.one_pass --shape demo --rows 1000             # the demo's data, models and CLIP
    python -m bench.one_pass --sharing --rows 96                  # rows that share pictures

A sweep over all methods reads the data once per model; the ratio says how much more that takes than
the pass of the method whose signals take longest. With random weights of a shape, what the blind
and the unasked variant of the rows add to the pass is printed as well. ``llava_1_5_tokens`` has the
token shape of LLaVA-1.5: 576 tokens an image, conversations as long as those of LLaVA-665K. On a
CPU, seconds are those of the processor; operations are what torch counts, on any machine alike.

``--sharing``: COINCIDE's signal over shuffled rows that share pictures as those of LLaVA-665K do
(``Sharing``), in small shards so that two rows of a picture are seldom in one: what they begin with
run once (``features.share_prefixes``) or by every row.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

import run as program
from bench.made_models import SHAPES, Model, Source
from coincide.config import FeaturePass
from coincide.experiment import Experiment
from coincide.features.engine.shards import ShardedArray
from coincide.features.extract import extract, extract_all, extraction, signal_step
from coincide.features.passes.reference import ReferencePass
from coincide.features.signals.activations import Activations
from coincide.features.signals.bridging import Bridging
from coincide.features.signals.grand import GradientNorm
from coincide.features.signals.hidden_last import HiddenLast
from coincide.features.signals.hidden_mean import HiddenMean
from coincide.features.signals.hidden_weighted import HiddenWeighted
from coincide.features.signals.neurons import Neurons
from coincide.features.signals.token_scores import TokenScores
from coincide.features.signals.token_scores_blind import TokenScoresBlind
from coincide.features.signals.token_scores_unasked import TokenScoresUnasked
from coincide.features.signals.visual_attended import VisualAttended
from coincide.features.signals.visual_mean import VisualMean
from coincide.schema import Example, Signal
from coincide.store import Store

METHODS = (
    "coincide el2n perplexity semdedup d2_pruning self_sup clip_score self_filter visnec prism "
    "scalselect magic grand ifd dics"
).split()


SHARD_ROWS = 16
"""Of the pass over rows that share pictures."""
TURNS = 3
"""How often that pass runs with and without sharing, in turn."""


def main() -> None:
    """Time every method's signals alone, then all together, each from nothing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    shapes = ["demo", *sorted(SHAPES)]
    parser.add_argument("--shape", choices=shapes, default="llava_1_5_tokens")
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--sharing", action="store_true", help="measure rows that share pictures")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if asked.sharing:
            shared(Path(folder), asked.shape, asked.rows)
        elif asked.shape == "demo":
            demo(Path(folder), asked.rows)
        else:
            made(Path(folder), asked.shape, asked.rows)


# --- random weights of a shape, the reference model alone ----------------------------------------


def made(root: Path, shape: str, rows: int) -> None:
    """Every method's signals of the reference model over made rows."""
    (root / "images").mkdir()
    source = Source(rows, root / "images", SHAPES[shape])
    source.draw()
    over = ReferencePass(
        Model(shape, SHAPES[shape].max_length), source, SHAPES[shape].dtype, FeaturePass()
    )
    signals = of_methods(SHAPES[shape].layers)
    signals["el2n, perplexity"] = (TokenScores(),)
    seconds_of_pass(root, over, (TokenScores(),))  # warm: imports, file cache
    alone = {name: seconds_of_pass(root, over, found) for name, found in signals.items()}
    everything = tuple(dict.fromkeys(s for found in signals.values() for s in found))
    together = seconds_of_pass(root, over, everything)
    for name, taken in alone.items():
        print(f"{name:20s} {taken:7.2f} s  {', '.join(s.name for s in signals[name])}")
    print(f"{'all':20s} {together:7.2f} s  {len(everything)} signals, {rows} rows")
    _ratios("seconds", alone, together)
    counted = {name: operations(root, over, found) for name, found in signals.items()}
    _ratios("operations", counted, operations(root, over, everything))


def _ratios(of: str, alone: Mapping[str, float], together: float) -> None:
    plain, dearest = alone["el2n, perplexity"], max(alone, key=alone.__getitem__)
    blind, unasked = (alone[name] / plain - 1 for name in ("visnec", "ifd"))
    print(f"{of}: blind adds {blind:.2f} of the pass, unasked {unasked:.2f}")
    print(
        f"{of}: all signals / {dearest}, the dearest method alone, {together / alone[dearest]:.2f}"
    )


def operations(root: Path, over: ReferencePass, signals: tuple[Signal, ...]) -> float:
    """Floating-point operations of the pass, as torch counts them: the same on any machine."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        seconds_of_pass(root, over, signals)
    return float(counter.get_total_flops())


def of_methods(layers: Sequence[int]) -> dict[str, tuple[Signal, ...]]:
    """What each method reads of the reference model, with its default settings."""
    scores, blind, unasked = TokenScores(), TokenScoresBlind(), TokenScoresUnasked()
    last = tuple(layers[-4:])
    return {
        "coincide": (Activations(layers),),
        "semdedup, self_sup": (HiddenLast(),),
        "d2_pruning": (scores, HiddenMean()),
        "prism": (VisualMean(),),
        "scalselect": (VisualAttended(),),
        "rds": (HiddenWeighted(),),
        "visnec": (scores, blind),
        "magic": (scores, blind, Bridging(last), Neurons(last)),
        "grand": (GradientNorm(),),
        "ifd": (scores, unasked),
        "dics": (scores, blind, unasked, HiddenMean()),
    }


def seconds_of_pass(root: Path, over: ReferencePass, signals: tuple[Signal, ...]) -> float:
    """Seconds of one pass that yields ``signals``, the model's loading aside, nothing cached."""
    store = Store(root / "store")
    shutil.rmtree(store.root / "features", ignore_errors=True)
    data, base = over.source.step(), over.model.step()
    store.ensure(data)
    store.ensure(base)
    now = time.perf_counter if torch.cuda.is_available() else time.process_time
    started = now()
    extract(store, {s: signal_step(s, over, data=data, base=base) for s in signals}, over)
    return now() - started


# --- rows that share pictures -------------------------------------------------------------------


@dataclass(frozen=True)
class Sharing(Source):
    """Rows that show pictures as LLaVA-665K's do: of those with one, 364,100 in 624,610 show one of
    118,000 of COCO's, which are shown 3.1 times each, the others one of their own.
    """

    @cached_property
    def examples(self) -> tuple[Example, ...]:
        """As :class:`Source` has them, with other pictures, in a shuffled order."""
        random, made = np.random.default_rng(1), super().examples
        seeing = [row for row in random.permutation(len(made)).tolist() if made[row].images]
        again = round(len(seeing) * 364_100 / 624_610)
        names = {row: i * 118_000 // 364_100 if i < again else 10**6 + i
                 for i, row in enumerate(seeing)}  # fmt: skip
        return tuple(
            replace(e, images=(f"{names[e.row]}.jpg",) if e.row in names else ()) for e in made
        )


def shared(root: Path, shape: str, rows: int) -> None:
    """One pass with and one without sharing, seconds, operations and the largest difference."""
    (root / "images").mkdir()
    source = Sharing(rows, root / "images", SHAPES[shape])
    source.draw()
    model, dtype = Model(shape, SHAPES[shape].max_length), SHAPES[shape].dtype
    signals = (Activations(SHAPES[shape].layers), TokenScores())
    seconds: list[list[float]] = [[], []]
    counted, values = [], []
    passes = [
        ReferencePass(model, source, dtype, FeaturePass(share_prefixes=s, shard_rows=SHARD_ROWS))
        for s in (False, True)
    ]
    for over in passes:
        counted.append(operations(root, over, signals))  # warms imports and file cache too
        folder = next((root / "store" / "features").glob("activations*"))
        values.append(ShardedArray(folder)[:].astype(np.float32))
    for _ in range(TURNS):
        for taken, over in zip(seconds, passes, strict=True):
            taken.append(seconds_of_pass(root, over, signals))
    without, sharing = map(min, seconds)
    names = [name for example in source.examples for name in example.images]
    print(
        f"{rows} shuffled rows in shards of {SHARD_ROWS}, {len(names)} with one of "
        f"{len(set(names))} pictures"
    )
    print(f"seconds {without:.1f} without sharing, {sharing:.1f} with it (the fastest of {TURNS}): "
          f"{without / sharing:.2f} times as fast")  # fmt: skip
    print(f"operations: {counted[0] / counted[1]:.2f} times as few")
    print(f"largest difference of a value: {np.abs(values[0] - values[1]).max():.1e}")


# --- the demo's data, models and CLIP ------------------------------------------------------------


def demo(folder: Path, rows: int) -> None:
    """Every method of the demo."""
    words = [f"data.n={rows}", f"paths.store={folder}"]
    runs = {m: program.compose_all([f"method={m}", *words])[0].experiment for m in METHODS}
    first = runs["coincide"]
    for step in (first.data, first.reference.step(), first.models["clip"].step()):
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
    dearest = max(alone[m] for m in METHODS if signals[m][0].model == "reference")
    print(f"all reference signals / dearest alone: {together['reference'] / dearest:.2f}")
    print(f"all signals / dearest alone: {sum(together.values()) / max(alone.values()):.2f}")


def seconds_of(run: Experiment, signals: Sequence[Signal]) -> float:
    """Seconds of the passes that ``signals`` need, nothing cached."""
    shutil.rmtree(Path(run.store.root) / "features", ignore_errors=True)
    now = time.perf_counter if torch.cuda.is_available() else time.process_time
    started = now()
    wanted = [extraction(s, run.models[s.model], run.source, run.features) for s in signals]
    extract_all(run.store, wanted)
    return now() - started


if __name__ == "__main__":
    main()
