"""kill -9 at random times in one stage, and what the next runs make of it."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path

from coincide.store.provenance import commit
from tests.storm.world import (
    KINDS,
    STAGES,
    Watch,
    children,
    contents,
    copied,
    leftovers,
    orphans,
    run,
    start,
)

TARGETS = ("main", "child", "group")
CHAIN = 3
"""Kills in a row, each of what goes on after the one before."""
RERUNS = 3
LOOK = 0.01
"""Seconds between two looks at what is written."""


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
    def killed(self) -> int:
        return sum(self.kills.values())

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


def added(one: Storm, other: Storm) -> Storm:
    """What two parts of a storm saw together."""
    kills = {target: one.kills[target] + other.kills[target] for target in TARGETS}
    return Storm(
        one.stage, kills, one.too_late + other.too_late, one.differs + other.differs,
        one.orphans + other.orphans, one.left + other.left, one.failed + other.failed,
    )  # fmt: skip


def begun(table: Path | None, name: str) -> Storm:
    """What the parts that ``table`` holds, a line of JSON each, saw of one stage together."""
    found = Storm(name)
    lines = table.read_text().splitlines() if table and table.exists() else []
    for part in (json.loads(line) for line in lines):
        del part["day"], part["commit"]
        if part["stage"] == name:
            found = added(found, Storm(**part))
    return found


def keep(table: Path | None, part: Storm) -> None:
    """Add a part to the table, with the day and the version that it was run with."""
    if table:
        table.parent.mkdir(parents=True, exist_ok=True)
        with table.open("a") as handle:
            stamp = {"day": date.today().isoformat(), "commit": commit()}
            handle.write(json.dumps({**asdict(part), **stamp}) + "\n")


def storm(
    stage: str, kills: int, whole: Path, folder: Path, seed: int, more: tuple[str, ...] = (),
    *, cold: bool = False, table: Path | None = None, minutes: float = float("inf"),
) -> Storm:  # fmt: skip
    """Kill ``stage`` so many times, up to ``CHAIN`` times in a row in a copy of the undisturbed run
    without its artifacts, and let it come to its end then.

    Every other kill is at a random time, the others at a random write into the store: most of the
    time of a stage goes by while its processes import. ``more``: further words of the command,
    e.g. ``features.processes=2``; the undisturbed answer is made with them first. ``table``: where
    each part is kept as soon as it is seen; kills that it holds count, so that a storm which was
    ended goes on. None begins after so many ``minutes``.
    """
    name, end = " ".join([stage, *more]), time.monotonic() + 60 * minutes
    kinds, words = KINDS[stage], words_of(stage, more)
    found = begun(table, name)
    if found.killed >= kills:
        return found
    straight = copied(whole, folder / "straight", kinds)
    lasts, writes = _undisturbed(straight, words, kinds, cold)
    good = contents(straight, kinds)
    while found.killed < kills and found.too_late < 2 * kills and time.monotonic() < end:
        before = found.killed
        part = _chain(
            Storm(name), copied(whole, folder / "world", kinds), words, (lasts, writes), cold,
            random.Random(f"{seed} {before} {found.too_late}"), kills - before,
        )  # fmt: skip
        _go_on(folder / "world", words, good, kinds, part, cold)
        keep(table, part)
        found = added(found, part)
    return found


def _chain(
    part: Storm, world: Path, words: tuple[str, ...], whole: tuple[float, int], cold: bool,
    rng: random.Random, most: int,
) -> Storm:  # fmt: skip
    """Kill the run, and what goes on after it, up to ``CHAIN`` times in a row.

    ``whole``: seconds and writes of a run that nobody kills.
    """
    lasts, writes = whole
    first = rng.randrange(6)
    for i in range(first, first + min(CHAIN, most)):
        target, when = TARGETS[i % 3], rng.uniform(0.02, 0.98)
        moment = (when * lasts, None) if i % 2 else (4 * lasts, max(1, int(when * writes)))
        if not _kill(world, words, target, moment, part, cold):
            break
    return part


def _undisturbed(
    world: Path, words: tuple[str, ...], kinds: tuple[str, ...], cold: bool
) -> tuple[float, int]:
    """Seconds and writes of a run that nobody kills."""
    run(world, *words, "no_such_word=1", cold=cold)  # starts what runs are forked from
    watch = Watch(world, kinds)
    before, began = watch.look(), time.monotonic()
    process = start(world, words, cold=cold)
    while process.poll() is None:
        watch.look()
        time.sleep(LOOK)
    if process.wait():
        raise SystemExit((world / "said").read_text(errors="replace"))
    return time.monotonic() - began, watch.look() - before


def _kill(
    world: Path, words: tuple[str, ...], target: str, moment: tuple[float, int | None],
    found: Storm, cold: bool,
) -> bool:  # fmt: skip
    """Kill a run after so many seconds, or writes where they come first; False: it had ended."""
    watch = Watch(world, KINDS[found.stage.split()[0]])
    before, began = watch.look(), time.monotonic()
    process = start(world, words, cold=cold)
    seconds, writes = moment
    while time.monotonic() - began < seconds and process.poll() is None:
        if writes is not None and watch.look() - before >= writes:
            break
        time.sleep(LOOK)
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
    world: Path, words: tuple[str, ...], good: dict[str, str], kinds: tuple[str, ...],
    found: Storm, cold: bool,
) -> None:  # fmt: skip
    for _ in range(RERUNS):
        if (ended := run(world, *words, cold=cold)).code == 0:
            break
    else:
        found.failed.append(ended.said.strip().splitlines()[-1][:200])
        return
    now = contents(world, kinds)
    found.differs += sorted(n for n in now.keys() | good.keys() if now.get(n) != good.get(n))[:3]
    found.left += leftovers(world)
