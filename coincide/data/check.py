"""Decode every image of a dataset once, before anything is built on it, in separate processes.

Each worker is a Python process that receives image names and answers with findings, as JSON lines.
A picture that crashes its decoder costs one worker, and is named.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

from coincide.data.cells import in_order
from coincide.data.images import CorruptImage, MissingImage, decode
from coincide.data.listing import missing_files
from coincide.system.processes import preexec_die_with_parent
from coincide.terminal.progress import bar

CHUNK = 64
AHEAD = 4
"""Chunks for each process that wait, so that no process does."""
PATHS = (str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", ""))
FEW = 1024
"""Up to so many images are decoded in this process; starting others would take longer."""


STATES = ("ok", "converted", "missing", "corrupt")


class Finding(NamedTuple):
    """The state of an image, one of :data:`STATES`, and the reason or what was converted."""

    status: str
    detail: str = ""


def examine(root: Path, name: str) -> Finding:
    """Decode one image."""
    try:
        _, converted = decode(root, name)
    except MissingImage:
        return Finding("missing")
    except CorruptImage as error:
        return Finding("corrupt", str(error))
    return Finding("converted", ", ".join(converted)) if converted else Finding("ok")


def check_images(
    root: Path, names: Collection[str], *, processes: int | None = None
) -> dict[str, Finding]:
    """Name -> finding for each of ``names``, sorted, those in one shard by row; independent of the
    number of processes.

    Raises :class:`coincide.data.images.UnsafePath` for names that lead outside ``root``.
    """
    found = dict.fromkeys(sorted(names, key=in_order), Finding("missing"))
    missing = missing_files(root, found)
    there = [name for name in found if name not in missing]
    chunks = (there[i : i + CHUNK] for i in range(0, len(there), CHUNK))
    with bar("check images", total=len(there), unit="image") as progress:
        for chunk, findings in _examined(root, chunks, _processes(processes, len(there))):
            found.update(zip(chunk, findings, strict=True))
            progress.update(len(chunk))
    return found


def corrupt_images(
    root: Path,
    names: Iterable[str],
    count: int | None = None,
    *,
    processes: int | None = None,
) -> dict[str, str]:
    """Name -> reason for those of ``names`` that do not decode, sorted.

    ``count``: how many names there are, if they are to be taken one after the other. Missing images
    are not among them; the reader reports them.
    """
    if count is None:
        names = list(names)
        count = len(names)
    found: dict[str, str] = {}
    left = iter(names)
    chunks = iter(lambda: list(islice(left, CHUNK)), [])
    with bar("check images", total=count, unit="image") as progress:
        for chunk, findings in _examined(root, chunks, _processes(processes, count)):
            named = zip(chunk, findings, strict=True)
            found.update((name, f.detail) for name, f in named if f.status == "corrupt")
            progress.update(len(chunk))
    return dict(sorted(found.items()))


def _processes(asked: int | None, count: int) -> int:
    if asked is None:
        return 1 if count <= FEW else min(32, len(os.sched_getaffinity(0)))
    return min(asked, -(-count // CHUNK))


def _examined(
    root: Path, chunks: Iterable[list[str]], processes: int
) -> Iterator[tuple[list[str], list[Finding]]]:
    """Each chunk with its findings, in order; each worker is fed by a thread."""
    if processes <= 1:
        yield from ((chunk, [examine(root, name) for name in chunk]) for chunk in chunks)
        return
    workers: SimpleQueue[_Worker] = SimpleQueue()
    made = [_Worker(root) for _ in range(processes)]
    for worker in made:
        workers.put(worker)

    def check(chunk: list[str]) -> list[Finding]:
        worker = workers.get()
        try:
            return worker.ask(chunk)
        finally:
            workers.put(worker)

    try:
        with ThreadPoolExecutor(processes) as pool:
            waiting: deque[tuple[list[str], Future[list[Finding]]]] = deque()
            for chunk in chunks:
                waiting.append((chunk, pool.submit(check, chunk)))
                if len(waiting) > AHEAD * processes:
                    first, done = waiting.popleft()
                    yield first, done.result()
            yield from ((chunk, done.result()) for chunk, done in waiting)
    finally:
        for worker in made:
            worker.stop()


class _Worker:
    """A decoding process; restarted when a picture crashes it."""

    def __init__(self, root: Path) -> None:
        self.command = [sys.executable, "-m", "coincide.data.check", str(root)]
        self.process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, PATHS))},
            preexec_fn=preexec_die_with_parent(),
        )

    def ask(self, names: Sequence[str]) -> list[Finding]:
        answer = self._answer(names)
        if answer is not None:
            return [Finding(*item) for item in answer]
        self.stop()
        self.process = self._start()
        if len(names) == 1:
            return [Finding("corrupt", f"image {names[0]!r}: decoding it ended the process.")]
        return [finding for name in names for finding in self.ask([name])]

    def _answer(self, names: Sequence[str]) -> list[Any] | None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(list(names)) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            return None
        return json.loads(line) if line.endswith("\n") else None

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()


def serve() -> None:
    """Worker loop: answer each line of names on standard input with a line of findings."""
    root = Path(sys.argv[1])
    for line in sys.stdin:
        print(json.dumps([examine(root, name) for name in json.loads(line)]), flush=True)


if __name__ == "__main__":
    serve()
