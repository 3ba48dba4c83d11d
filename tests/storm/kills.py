"""kill -9 at random times in one stage, and what the next runs make of it."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.storm.world import (
    KINDS,
    STAGES,
    children,
    contents,
    copied,
    leftovers,
    orphans,
    run,
    start,
)

TARGETS = ("main", "child", "group")
RERUNS = 3


@dataclass
class Storm:
    """What was seen of one stage."""

    stage: str
    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TARGETS, 0))
    too_late: int = 0
    """Runs that had ended before they were to be killed."""
    differs: list[str] = field(default_factory=list)
    orphans: int = 0
    left: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @property
    def held(self) -> bool:
        return not (self.differs or self.orphans or self.left or self.failed)

    def row(self) -> str:
        kills = " / ".join(str(self.kills[target]) for target in TARGETS)
        verdict = "held" if self.held else "NOT HELD"
        seen = [*self.differs, *self.left, *self.failed]
        return (
            f"| {self.stage} | {kills} | {self.too_late} | {len(self.differs)} | {self.orphans} | "
            f"{len(self.left)} | {verdict} {'; '.join(seen[:3])} |"
        )


HEAD = (
    "| stage | kills: main / child / group | ended before | differs | orphans | left behind | |\n"
    "|---|---|---|---|---|---|---|"
)


def words_of(stage: str, more: tuple[str, ...]) -> tuple[str, ...]:
    """The command that ends with ``stage``."""
    if stage == "report":
        return ("stages=[report]", *more)
    names = STAGES[1 : STAGES.index(stage) + 1] or ("features",)
    return (f"stages=[{','.join(names)}]", *more)


def storm(
    stage: str, kills: int, whole: Path, folder: Path, seed: int, more: tuple[str, ...] = ()
) -> Storm:
    """Kill ``stage`` so many times, each in a copy of the undisturbed run without its artifacts.

    ``more``: further words of the command, e.g. ``features.processes=2``. With them, or in the
    stage itself, the undisturbed answer is made first.
    """
    rng, found = random.Random(seed), Storm(" ".join([stage, *more]))
    kinds = KINDS[stage]
    words = words_of(stage, more)
    straight = copied(whole, folder / "straight", kinds)
    began = time.monotonic()
    if (ended := run(straight, *words)).code:
        raise SystemExit(ended.said)
    lasts, good = time.monotonic() - began, contents(straight, kinds)
    tries = 0
    while sum(found.kills.values()) < kills and tries < 3 * kills:
        target = TARGETS[tries % 3]
        tries += 1
        world = copied(whole, folder / "world", kinds)
        if _kill(world, words, target, rng.uniform(0.1, 0.98) * lasts, found):
            _go_on(world, words, good, kinds, found)
    return found


def _kill(world: Path, words: tuple[str, ...], target: str, after: float, found: Storm) -> bool:
    process = start(world, words)
    time.sleep(after)
    if process.poll() is not None:
        found.too_late += 1
        return False
    below = children(world, process.pid)
    with suppress(ProcessLookupError):
        if target == "group":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            child = target == "child" and below
            os.kill(below[-1] if child else process.pid, signal.SIGKILL)
            target = "child" if child else "main"
    found.kills[target] += 1
    process.wait()
    if alive := orphans(world):
        found.orphans += 1
        for pid in alive:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    return True


def _go_on(
    world: Path, words: tuple[str, ...], good: dict[str, str], kinds: tuple[str, ...], found: Storm
) -> None:
    for _ in range(RERUNS):
        if (ended := run(world, *words)).code == 0:
            break
    else:
        found.failed.append(ended.said.strip().splitlines()[-1][:200])
        return
    now = contents(world, kinds)
    found.differs += sorted(n for n in now.keys() | good.keys() if now.get(n) != good.get(n))[:3]
    found.left += leftovers(world)
