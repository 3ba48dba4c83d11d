"""Clock and memory of what a bench runs."""

from __future__ import annotations

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


class Memory(threading.Thread):
    """Watches this process' resident memory: its peaks in bytes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = {"anon": 0, "file": 0, "all": 0}
        self.stop = threading.Event()

    def run(self) -> None:
        self.look()
        while not self.stop.wait(0.02):
            self.look()
        self.look()

    def look(self) -> None:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        now = {line.split(":")[0]: line.split()[1] for line in lines if line[:3] == "Rss"}
        anon, file = (int(now[name]) * 1024 for name in ("RssAnon", "RssFile"))
        for name, value in (("anon", anon), ("file", file), ("all", anon + file)):
            self.peak[name] = max(self.peak[name], value)
