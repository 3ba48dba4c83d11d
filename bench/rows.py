"""Print what the rows of a dataset cost: memory and time from the plan to the subset's file.

    python -m bench.rows --before ../before          # LLaVA-665K's size, and four copies of it
    python -m bench.rows --rows 20000 --copies 2 --pictures 2000

A file in LLaVA-665K's shape is made: its blocks of sources in their proportions, shuffled, with
turns and texts about as long, 1.55 kB a row, and small pictures that exist. ``random`` selects a
fifth of it: a plan (which hashes), the run, and the plan again, each a process of its own. The
checkout ``--before`` does the same with the file; this tree, with the file and with ``--copies`` of
it in one. ``resident`` is the peak of the largest process, ``anonymous`` of what it holds itself,
without pages of files; ``together`` is the peak over all processes, shared pages counted once.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

LLAVA, PICTURES, MIB = 665_298, 378_797, 2**20
ROOT = Path(__file__).resolve().parents[1]
BLOCKS: tuple[tuple[str, int, float, int, int], ...] = (
    # source, rows, questions in the mean, characters of a question and of an answer
    ("coco/train2017", 57_669, 4.5, 60, 160),
    ("coco/train2017", 23_240, 1, 70, 560),
    ("coco/train2017", 76_803, 1, 90, 590),
    ("coco/train2017", 82_783, 5.4, 85, 6),
    ("coco/train2017", 75_158, 2, 150, 3),
    ("coco/train2017", 48_447, 10, 75, 25),
    ("vg/VG_100K", 86_417, 10, 75, 35),
    ("gqa/images", 72_140, 14, 85, 6),
    ("ocr_vqa/images", 80_000, 5, 85, 25),
    ("textvqa/train_images", 21_953, 1, 380, 60),
    ("", 40_688, 4.5, 250, 900),
)
SHOWN = {"coco/train2017": 118_287, "vg/VG_100K": 86_417, "gqa/images": 72_140,
         "ocr_vqa/images": 80_000, "textvqa/train_images": 21_953}  # fmt: skip
"""Pictures of each folder."""
WORDS = "the a of man dog two red left near street on holding with table sign what is in".split()
RUN = ("method=random", "budget=0.2", "data=llava_json", "data.on_media_tag=text",
       "target=llava_1_5_7b", "stages=[select]")  # fmt: skip


# --- the data ---------------------------------------------------------------------------------


def records(rows: int, pictures: int) -> Iterator[dict[str, Any]]:
    """``rows`` rows in LLaVA-665K's proportions, shuffled; about ``pictures`` pictures."""
    rng = np.random.default_rng(0)
    shares = np.array([block[1] for block in BLOCKS], float)
    kinds = rng.permutation(np.repeat(range(len(BLOCKS)), _parts(rows, shares)))
    text = " ".join(rng.choice(WORDS, 200_000))
    most = {folder: max(1, round(n * pictures / PICTURES)) for folder, n in SHOWN.items()}
    seen = dict.fromkeys(SHOWN, 0)
    for row, kind in enumerate(kinds.tolist()):
        folder, _, questions, asked, answered = BLOCKS[kind]
        turns = []
        for number in range(max(1, int(rng.poisson(questions)))):
            begin, length = (
                int(rng.integers(len(text) // 2)),
                max(1, int(rng.exponential(answered))),
            )
            first = "<image>\n" if folder and not number else ""
            turns.append({"from": "human", "value": first + text[begin : begin + asked] + "?"})
            turns.append({"from": "gpt", "value": text[begin + asked : begin + asked + length]})
        shown = {}
        if folder:
            shown = {"image": f"{folder}/{seen[folder] % most[folder]:012d}.png"}
            seen[folder] += 1
        yield {"id": f"{row:012d}", **shown, "conversations": turns}


def _parts(total: int, shares: np.ndarray) -> np.ndarray:
    ends = np.round(np.cumsum(shares) / shares.sum() * total).astype(int)
    return np.diff(ends, prepend=0)


def make(folder: Path, rows: int, copies: int, pictures: int) -> tuple[Path, Path]:
    """Write the file, and one of ``copies`` of it, and the pictures."""
    one, many = folder / "one.json", folder / "many.json"
    shown: set[str] = set()
    with one.open("w", encoding="utf-8") as file:
        for number, record in enumerate(records(rows, pictures)):
            file.write((",\n" if number else "[\n") + json.dumps(record))
            shown.update([record["image"]] if "image" in record else [])
        file.write("\n]\n")
    text = one.read_bytes()[1:-2].strip(b"\n")
    with many.open("wb") as out:
        out.write(b"[\n")
        for number in range(copies):
            out.write((b",\n" if number else b"") + text)
        out.write(b"\n]\n")
    _pictures(folder, sorted(shown))
    return one, many


def _pictures(folder: Path, names: Sequence[str]) -> None:
    """Small pictures, of which many are one file under several names."""
    from PIL import Image

    for number, name in enumerate(names):
        path = folder / name
        if number % 10_000 == 0:
            first = folder / f"{number}.png"
            Image.new("RGB", (8, 8), (number // 10_000 % 256, 0, 0)).save(first)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(first, path)


# --- measuring --------------------------------------------------------------------------------


@dataclass
class Peak:
    """Bytes at their peak, and seconds by the clock."""

    resident: int = 0
    anonymous: int = 0
    together: int = 0
    seconds: float = 0.0

    def look(self, process: int) -> None:
        """Look at ``process`` and those that it started."""
        together = 0
        for each in (process, *_below(process)):
            with suppress(OSError, KeyError, ValueError):
                status = _fields(Path(f"/proc/{each}/status"))
                self.resident = max(self.resident, status["VmHWM"])
                self.anonymous = max(self.anonymous, status["RssAnon"])
                together += _fields(Path(f"/proc/{each}/smaps_rollup"))["Pss"]
        self.together = max(self.together, together)


def _fields(path: Path) -> dict[str, int]:
    lines = (line.split() for line in path.read_text(encoding="utf-8").splitlines())
    return {words[0][:-1]: 1024 * int(words[1]) for words in lines if words[-1:] == ["kB"]}


def _below(process: int) -> Iterator[int]:
    with suppress(OSError):
        found = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="utf-8")
        for child in map(int, found.split()):
            yield child
            yield from _below(child)


def measured(words: Sequence[str], tree: Path, cache: Path) -> tuple[Peak, str]:
    """Run ``python run.py`` in ``tree``; its peak, and what it printed."""
    env = {**os.environ, "XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(tree)}
    peak, began, ended = Peak(), time.monotonic(), threading.Event()
    process = subprocess.Popen(
        [sys.executable, "run.py", *words],
        cwd=tree, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip

    def watch() -> None:
        while not ended.wait(0.1):
            peak.look(process.pid)

    watcher = threading.Thread(target=watch)
    watcher.start()
    said = process.communicate()[0]
    ended.set()
    watcher.join()
    peak.seconds = time.monotonic() - began
    if process.returncode:
        raise SystemExit(said)
    return peak, said


def whole(tree: Path, annotations: Path, images: Path, scratch: Path) -> dict[str, Any]:
    """Plan, run, and plan again: their peaks, the subset's hash and its artifact."""
    store, cache = scratch / "store", scratch / "cache"
    words = [*RUN, f"data.annotations={annotations}", f"data.images={images}",
             f"paths.store={store}", f"paths.ledger={scratch / 'ledger'}"]  # fmt: skip
    found: dict[str, Any] = {}
    for name, more in (
        ("plan", ["dry_run=true"]),
        ("select", []),
        ("plan again", ["dry_run=true"]),
    ):
        found[name], _ = measured([*words, *more], tree, cache)
        show(name, found[name])
    (subset,) = (store / "subset").glob("random-*/subset.json")
    with subset.open("rb") as file:
        found["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    found["artifact"] = subset.parent.name
    found["peak"] = max(found[name].resident for name in ("plan", "select"))
    return found


def show(name: str, peak: Peak) -> None:
    """Print a line of the table."""
    sizes = (peak.resident, peak.anonymous, peak.together)
    print(f"{name:12s}" + "".join(f"{size / MIB:11,.0f}" for size in sizes), end="")
    print(f"{peak.seconds:10.1f} s", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the data, run both trees, print."""
    asked = parsed(arguments)
    with tempfile.TemporaryDirectory(dir=asked.scratch) as scratch:
        folder = Path(scratch)
        one, many = make(folder, asked.rows, asked.copies, asked.pictures)
        print(
            f"{asked.rows:,} rows, {one.stat().st_size / 1e9:.2f} GB, {asked.pictures:,} pictures"
        )
        print(f"{'MiB':12s}{'resident':>11s}{'anonymous':>11s}{'together':>11s}")
        trees = {"before": asked.before, "now": ROOT} if asked.before else {"now": ROOT}
        found = {}
        for name, tree in trees.items():
            print(f"-- {name}: {asked.rows:,} rows")
            (folder / name).mkdir()
            found[name] = whole(Path(tree).resolve(), one, folder, folder / name)
        print(f"-- now: {asked.rows * asked.copies:,} rows")
        (folder / "many").mkdir()
        found["many"] = whole(ROOT, many, folder, folder / "many")
        compare(found, asked.rows, asked.copies)


def compare(found: dict[str, dict[str, Any]], rows: int, copies: int) -> None:
    """Print bytes a row, and whether both trees select the same."""
    each = {name: found[name]["peak"] / rows for name in found}
    each["many"] /= copies
    print("\nresident bytes a row: " + ", ".join(f"{n} {size:,.0f}" for n, size in each.items()))
    if "before" in found:
        print(f"before / now, {copies} copies: {each['before'] / each['many']:.1f}")
        for what in ("sha256", "artifact"):
            same = found["before"][what] == found["now"][what]
            print(f"subset's {what} as before: {same}")


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=LLAVA)
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--pictures", type=int, default=PICTURES)
    parser.add_argument("--before", type=Path, help="checkout of the build to compare with")
    parser.add_argument("--scratch", help="folder for data and stores: 12 kB a row and copy")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
