"""Clock and memory of what a bench runs."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Spent:
    """Seconds of a block, known once it is over."""

    wall: float = 0.0
    cpu: float = 0.0
    """Of all threads of this process: on a machine with other work, what is to be compared."""


@contextmanager
def clock() -> Iterator[Spent]:
    """Measures the block."""
    spent, wall, cpu = Spent(), time.perf_counter(), time.process_time()
    yield spent
    spent.wall, spent.cpu = time.perf_counter() - wall, time.process_time() - cpu


@contextmanager
def memory(every: float = 0.02) -> Iterator[dict[str, int]]:
    """Peaks of resident bytes while the block runs, of this process and its children together.

    ``anon`` is what they hold themselves, ``file`` pages of files and libraries, which the kernel
    takes back when it needs them, ``all`` both at once. Complete once the block is over.
    """
    peak, over = {"anon": 0, "file": 0, "all": 0}, threading.Event()

    def watch() -> None:
        while not over.wait(every):
            raise_peak(peak)

    watcher = threading.Thread(target=watch, daemon=True)
    raise_peak(peak)
    watcher.start()
    try:
        yield peak
    finally:
        over.set()
        watcher.join()
        raise_peak(peak)


def raise_peak(peak: dict[str, int]) -> None:
    """Raise ``peak`` to what is resident now."""
    anon = file = 0
    for process in ["self", *(child.pid for child in multiprocessing.active_children())]:
        try:
            lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
        except OSError:  # it has ended
            continue
        now = {line.split(":")[0]: int(line.split()[1]) for line in lines if line[:3] == "Rss"}
        anon += (now.get("RssAnon", 0) + now.get("RssShmem", 0)) * 1024
        file += now.get("RssFile", 0) * 1024
    for name, value in (("anon", anon), ("file", file), ("all", anon + file)):
        peak[name] = max(peak[name], value)
