"""``python -m bench.gradients``: gradients of rows by LoRA parameters, this engine and others.

    python -m bench.gradients                   # the demo's LLaVA with a trained adapter, its rows
    python -m bench.gradients --model text      # the same model and rows, without the pictures
    python -m bench.gradients --model wide      # a decoder of width 512, rows of 120 to 256 tokens

One run prints a table: speed (engines in turns in one process and on one thread, the best of some
repeats, in seconds of the processor), peak memory above the model (each engine in a process of its
own), and what is left of the exact gradients: the rank correlation of influences of rows on target
rows, and how many of the rows that methods choose are those that the exact gradients choose.
Engines are those of ``bench.gradient_engines``."""

from __future__ import annotations

import argparse
import ctypes
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from baselines.icons import count_votes
from baselines.mix_to_max import net_influence
from baselines.quotas import apportion
from baselines.tive import mean_cosines
from bench.gradient_engines import AGAIN, EXACT, OWN, RELEASED, Engine, Found, engines
from bench.gradient_rows import Material, tiny, wide

BUDGET = 0.2
"""Of the rows that are not targets."""
MODELS: Mapping[str, Callable[[Path, int], Material]] = {
    "tiny": tiny, "text": partial(tiny, pictures=False), "wide": wide,
}  # fmt: skip


# --- measures -----------------------------------------------------------------------------------


def peak(engine: Engine, material: Material) -> float:
    """MiB above the loaded model, in a process of its own."""
    there, here = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(
        target=_measured, args=(engine, material, here)
    )
    child.start()
    found: float = there.recv()
    child.join()
    return found


def _measured(engine: Engine, material: Material, tell: Any) -> None:
    torch.set_num_threads(1)
    run = engine(material)
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before does not serve now
    Path("/proc/self/clear_refs").write_text("5")  # the peak is the present from here on
    before = _status("VmRSS")
    run()
    tell.send((_status("VmHWM") - before) / 1024)


def _status(field: str) -> int:
    """A size of this process in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    [line] = [line for line in lines if line.startswith(f"{field}:")]
    return int(line.split()[1])


def fidelity(found: Found, exact: Found, material: Material) -> dict[str, float]:
    """Rank correlations with the exact influences, as products and as cosines, and of the rows that
    methods choose, the share that the exact gradients choose too.
    """
    one, other = (_influences(each, material.targets) for each in (found, exact))
    result = {
        name: float(spearmanr(one[name].flatten(), other[name].flatten()).statistic)
        for name in ("product", "cosine")
    }
    mine, theirs = (chosen(each, material) for each in (found, exact))
    return result | {
        name: len(np.intersect1d(mine[name], theirs[name])) / len(theirs[name]) for name in theirs
    }


def _influences(found: Found, targets: int) -> dict[str, np.ndarray]:
    unit, length = _apart(found)
    cosine = unit[:-targets] @ unit[-targets:].T
    return {"cosine": cosine, "product": cosine * length[:-targets, None] * length[-targets:]}


def _apart(found: Found) -> tuple[np.ndarray, np.ndarray]:
    """Unit rows float64 [n, D], and the lengths [n]."""
    x = found.values.astype(np.float64)
    norm = np.linalg.norm(x, axis=1)
    lengths = norm if found.lengths is None else found.lengths.astype(np.float64)
    return x / norm[:, None], lengths


def chosen(found: Found, material: Material) -> dict[str, np.ndarray]:
    """By the rule of each method, rows of the pool at ``BUDGET``; the targets' sources are tasks.

    ICONS by votes, LESS by the best task, TIVE's typical rows of each source, and for Mix-to-Max
    the first rows of each source, as many as it gives the source.
    """
    targets = material.targets
    unit, length = _apart(found)
    rows, tasks = unit[:-targets], material.tasks[-targets:]
    means = np.stack([unit[-targets:][tasks == t].mean(axis=0) for t in np.unique(tasks)])
    by_task = rows @ means.T
    votes, ranks = count_votes(by_task, BUDGET)
    k = round(BUDGET * len(rows))
    source = material.tasks[:-targets]
    room = np.bincount(source)
    typical = mean_cosines(rows, np.arange(len(rows)), source, len(room))
    lengths = np.bincount(source, length[:-targets]) / room.clip(1)
    net, _ = net_influence(length[:-targets, None] * rows, source, len(room))
    return {
        "icons": np.lexsort((-ranks, -votes))[:k],
        "less": np.argsort(-by_task.max(axis=1), kind="stable")[:k],
        "tive": _by_source(typical, source, apportion(lengths, room, k)),
        "mix_to_max": _by_source(-np.arange(len(rows)), source, apportion(np.exp(net), room, k)),
    }


def _by_source(value: np.ndarray, source: np.ndarray, quota: np.ndarray) -> np.ndarray:
    order = np.lexsort((-value, source))
    place = np.arange(len(order)) - np.searchsorted(source[order], source[order])
    taken: np.ndarray = order[place < quota[source[order]]]
    return taken


# --- the run ------------------------------------------------------------------------------------


def measured(material: Material, asked: Mapping[str, Engine], repeats: int) -> list[dict[str, Any]]:
    """A line for each engine."""
    few = Material(material.base, material.adapter, material.rows[:32], material.tasks[:32], 8)
    memory = {
        name: peak(engine, few if name == RELEASED else material)  # two of its projections
        for name, engine in asked.items()
    }
    runs = {name: engine(material) for name, engine in asked.items()}
    best: dict[str, float] = {}
    found: dict[str, Found] = {}
    for turn in range(repeats):
        for name, run in runs.items():
            if turn and name == RELEASED:
                continue  # minutes; one tells enough
            began = time.process_time()
            found[name] = run()
            best[name] = min(best.get(name, np.inf), time.process_time() - began)
    if OWN in found and AGAIN in found:
        same = found[OWN].values.tobytes() == found[AGAIN].values.tobytes()
        print(f"Blocks that run again give {'the same' if same else 'OTHER'} bytes.\n")
    return [
        {
            "engine": name,
            "numbers": found[name].values.shape[1],
            "rows_per_second": len(material.rows) / best[name],
            "mib": memory[name],
            **fidelity(found[name], found[EXACT], material),
        }
        for name in asked
    ]


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """The lines as a table in Markdown."""
    shares = [name for name in lines[0] if name not in ("engine", "numbers")][2:]
    head = ["engine", "numbers", "rows/s", "MiB", *shares]
    rows = [
        [line["engine"], f"{line['numbers']:,}", f"{line['rows_per_second']:.3g}",
         f"{line['mib']:.0f}", *(f"{line[name]:.3f}" for name in shares)]
        for line in lines
    ]  # fmt: skip
    ruler = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ruler, *rows])


def conditions(words: Sequence[str]) -> str:
    """Command, versions and load of the machine."""
    found = []
    for name in ("torch", "transformers", "peft", "bergson"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, one thread"
    command = " ".join(["python -m bench.gradients", *words])
    return f"`{command}`: Python {platform.python_version()}, {', '.join(found)}; {load}"


def main(words: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Print the table; its lines."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.gradients", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--model", choices=sorted(MODELS), default="tiny")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="engines whose names hold one of these")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        material = MODELS[options.model](Path(folder), options.rows)
        asked = {
            name: engine
            for name, engine in engines(material).items()
            if not options.only or any(part in name for part in (EXACT, *options.only))
        }
        lines = measured(material, asked, options.repeats)
    given = [
        f"--{name} {' '.join(map(repr, value)) if isinstance(value, list) else value}"
        for name, value in vars(options).items()
        if value != parser.get_default(name)
    ]
    print(f"{conditions(given)}\n\n{table(lines)}", flush=True)
    return lines


if __name__ == "__main__":
    main()
