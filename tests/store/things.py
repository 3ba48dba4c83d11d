"""What the tests of the store build, damage and race for."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coincide.store import Build, Step, Store
from coincide.system.files import write_json


def numbers(build: Build) -> dict[str, int]:
    """Four files; those found are kept. Counts itself in a file outside the store."""
    log = Path(build.step.config["log"]) if "log" in build.step.config else None
    for i in range(4):
        path = build.dir / f"part-{i}.json"
        if not path.is_file():
            if log:
                with log.open("a") as handle:
                    handle.write(f"{i}\n")
            write_json(path, [i, build.step.config.get("value", 0)])
    return {"parts": 4}


def step(value: int = 0, *, name: str = "numbers", version: int = 1, **more: object) -> Step:
    return Step("things", name, version, {"value": value, **more}, numbers)


def flip(path: Path) -> None:
    """Another last byte, in a file of the same size and with the same times."""
    status, content = path.stat(), path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def run_together(calls: Sequence[tuple[Any, tuple[Any, ...]]], go: Path) -> list[int | None]:
    """Exit codes of processes that begin together."""
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=target, args=args) for target, args in calls]
    for child in children:
        child.start()
    go.touch()
    for child in children:
        child.join()
    return [child.exitcode for child in children]


def without_lock(root: Path) -> Store:
    from contextlib import nullcontext

    store = Store(root)
    store._lock = lambda step: nullcontext(False)  # type: ignore[method-assign,assignment]
    return store
