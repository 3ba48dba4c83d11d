"""Two runs at once, and a killed one's successor, where file locks do not work as they should."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.storm.kills import words_of
from tests.storm.world import KINDS, Ended, contents, copied, leftovers, orphans, run, start

WAYS = ("ENOLCK", "ENOSYS", "apart", "removed")
"""``flock`` raises for files of the run, not for temporary ones (``datasets`` locks its tables,
whatever it is told); each run has locks of its own, as with a node's own ``flock``; the folder of
locks is removed again and again.
"""
STAGES = ("prepare", "features", "select", "train", "evaluate")
MEASURED = (
    "seconds", "bytes", "attempts", "memory", "threads", "tokens", "prefixes", "reused",
)  # fmt: skip
"""Parts of names of facts that no two runs share: what was measured, and what was left to compute
when a killed evaluation was gone on with."""


def broken(way: str, world: Path) -> None:
    """Make this process's locks of files below ``world`` fail in one of ``WAYS``."""
    if way == "apart":
        from coincide.store import lock

        lock.FOLDER = f".locks-{os.getpid()}"
    elif way in ("ENOLCK", "ENOSYS"):
        number, works = getattr(errno, way), fcntl.flock

        def flock(file: Any, operation: int) -> None:
            descriptor = file if isinstance(file, int) else file.fileno()
            if Path(f"/proc/self/fd/{descriptor}").readlink().is_relative_to(world):
                raise OSError(number, os.strerror(number))
            works(file, operation)

        fcntl.flock = flock


def facts(world: Path, kinds: Sequence[str]) -> dict[str, Any]:
    """What the manifests say of each artifact, but for what was measured."""
    found = {}
    for kind in kinds:
        for path in (world / "store" / kind).glob("*/manifest.json"):
            told = json.loads(path.read_text())["facts"]
            found[f"{kind}/{path.parent.name}"] = {
                name: value for name, value in told.items()
                if not any(part in name for part in MEASURED)
            }  # fmt: skip
    return found


def wrong(world: Path, whole: Path, kinds: Sequence[str]) -> str:
    """How artifacts, facts and leftovers differ from the undisturbed run's; empty if in nothing."""
    good, now = contents(whole, kinds), contents(world, kinds)
    if differs := [n for n in now.keys() | good.keys() if n in now and now[n] != good.get(n)]:
        return f"{', '.join(sorted(differs)[:3])} differs"
    if lacks := [name for name in good if name not in now and not name.startswith("store/model/")]:
        return f"{', '.join(lacks[:3])} missing"
    expected = facts(whole, kinds)
    if told := [name for name, each in facts(world, kinds).items() if each != expected[name]]:
        return f"facts of {', '.join(told[:3])} differ"
    left = [name for name in leftovers(world) if ".quarantine" not in name]
    return f"left: {', '.join(left[:3])}" if left else ""


def at_once(stage: str, way: str, whole: Path, folder: Path) -> str:
    """Two runs of ``stage``, the second a moment after the first has begun to write."""
    world, words = copied(whole, folder / "world", KINDS[stage]), words_of(stage, ())
    over = threading.Event()
    if way == "removed":
        threading.Thread(target=_remove, args=(world / "store" / ".locks", over)).start()
    first = start(world, words, locks=way)
    _writing(world, KINDS[stage], first)
    second = start(world, words, locks=way, said="said2")
    ended = [
        Ended(process.wait(), (world / name).read_text(errors="replace"))
        for process, name in ((first, "said"), (second, "said2"))
    ]
    over.set()
    for each in ended:
        if each.code not in (0, 2) or "Traceback" in each.said:
            return f"WRONG: rc {each.code}: {each.said.strip().splitlines()[-1][:160]}"
    if all(each.code for each in ended):
        return f"WRONG: none came to its end: {ended[0].said.strip().splitlines()[-1][:160]}"
    return _verdict(world, whole, stage) or f"held, rc {ended[0].code} and {ended[1].code}"


def after_a_kill(stage: str, way: str, whole: Path, folder: Path) -> str:
    """A run of ``stage`` that is killed in the middle, and the next one."""
    world, words = copied(whole, folder / "world", KINDS[stage]), words_of(stage, ())
    first = start(world, words, locks=way)
    _writing(world, KINDS[stage], first)
    time.sleep(0.3)
    with suppress(ProcessLookupError):  # it was quicker
        os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    orphans(world)
    ended = run(world, *words, locks=way)
    if ended.code:
        return f"WRONG: rc {ended.code}: {ended.said.strip().splitlines()[-1][:160]}"
    return _verdict(world, whole, stage) or "held"


def _verdict(world: Path, whole: Path, stage: str) -> str:
    if seen := wrong(world, whole, KINDS[stage]):
        return f"WRONG: {seen}"
    again = run(world, *words_of(stage, ()))
    return f"WRONG: the next start: rc {again.code}" if again.code else ""


def _writing(world: Path, kinds: Sequence[str], process: Any) -> None:
    """Wait until an attempt at one of ``kinds`` has files of its own."""
    while process.poll() is None:
        attempts = (a for kind in kinds for a in (world / "store" / kind).glob(".partial-*"))
        if any(p.is_file() and p.name[0] != "." for a in attempts for p in a.rglob("*")):
            return
        time.sleep(0.01)


def _remove(folder: Path, over: threading.Event) -> None:
    while not over.wait(0.05):
        shutil.rmtree(folder, ignore_errors=True)


def try_all(whole: Path, folder: Path, only: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Every stage in every way, with what was seen."""
    found = []
    for stage in STAGES:
        for way in WAYS:
            for what, how in (("two at once", at_once), ("killed", after_a_kill)):
                name = f"{stage}, {way}, {what}"
                if not only or any(part in name for part in only):
                    found.append((name, how(stage, way, whole, folder)))
                    print(f"| {name} | {found[-1][1]} |", flush=True)
    return found
