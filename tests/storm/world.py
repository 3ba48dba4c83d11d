"""What the storm stands on: the shrunk demo run once undisturbed, copies of it, and comparisons."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from coincide.system.processes import preexec_die_with_parent
from tests.command.conftest import SMALL, command, environment
from tests.warm import Plain, Popen

STAGES = ("prepare", "features", "select", "train", "evaluate", "report")
KINDS = {
    "prepare": ("data", "model", "features"), "features": ("features",),
    "select": ("clusters", "subset"), "train": ("adapter",), "evaluate": ("eval",), "report": (),
}  # fmt: skip
"""What each stage makes; features stand on what is prepared, and ask for it."""
LEFT = (
    ".partial-*",
    ".by-picture-*",
    ".claimed-*",
    ".claims-*",
    ".tmp-*",
    ".gone-*",
    ".owner-*",
    ".quarantine",
)
"""Names that nothing may leave behind in store, ledger and reports."""


@dataclass(frozen=True)
class Ended:
    """A run of the command: its status and all that it printed."""

    code: int
    said: str


def around() -> dict[str, str]:
    """The environment of a run: one thread each, since several runs share the machine."""
    return {**environment(), "OMP_NUM_THREADS": "1"}


def start(
    folder: Path, words: Sequence[str], limit: int | None = None, cold: bool = False,
    locks: str = "", said: str = "said",
) -> Any:  # fmt: skip
    """The command in a session of its own, its output in ``folder/<said>``.

    ``limit``: most bytes of a file. ``cold``: ``python run.py``, which imports everything first.
    ``locks``: how its file locks fail (``storm.locks``), unless cold. It is killed when this
    process ends.
    """
    with (folder / said).open("wb") as output:
        return (Plain if cold else Popen)(
            command(*SMALL, *words), cwd=folder, env=around(), stdin=subprocess.DEVNULL,
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            preexec_fn=partial(_begin, limit, preexec_die_with_parent(), locks, folder.resolve()),
        )  # fmt: skip


def _begin(limit: int | None, die_with: Callable[[], None], locks: str, world: Path) -> None:
    die_with()
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if locks:
        from tests.storm.locks import broken

        broken(locks, world)


def run(
    folder: Path, *words: str, limit: int | None = None, cold: bool = False, locks: str = ""
) -> Ended:
    """The command to its end."""
    code = start(folder, words, limit, cold, locks).wait()
    return Ended(code, (folder / "said").read_text(errors="replace"))


def base(folder: Path) -> Path:
    """A folder in which the demo ran through once; made when ``folder`` does not hold it."""
    if not (folder / "whole").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        ended = run(folder, cold=True)
        if ended.code:
            raise SystemExit(ended.said)
        (folder / "whole").touch()
    return folder


def copied(source: Path, target: Path, without: Iterable[str] = ()) -> Path:
    """A copy of a world without the artifacts of these kinds."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, symlinks=True)
    for kind in without:
        shutil.rmtree(target / "store" / kind, ignore_errors=True)
    return target


def contents(folder: Path, kinds: Iterable[str]) -> dict[str, str]:
    """SHA-256 of every file of the artifacts of these kinds, manifests aside, and of the scores."""
    found = {}
    for kind in kinds:
        for path in sorted((folder / "store" / kind).glob("*/**/*")):
            name = str(path.relative_to(folder))
            if path.is_file() and path.name != "manifest.json" and "/." not in name:
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    if "eval" in kinds:
        for path in (folder / "ledger").glob("*.json"):
            found[path.name] = json.dumps(json.loads(path.read_text())["scores"], sort_keys=True)
    if not kinds:
        for path in (folder / "reports").glob("report.*"):
            found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return {
        n: d for n, d in found.items() if not n.endswith(("recipe.json", "log.json", "README.md"))
    }


def leftovers(folder: Path) -> list[str]:
    """What killed runs left behind."""
    places = [folder / name for name in ("store", "ledger", "reports")]
    found = (p for place in places for pattern in LEFT for p in place.rglob(pattern))
    return sorted(str(path.relative_to(folder)) for path in found)


@dataclass
class Watch:
    """Counts how often files of the artifacts that a stage makes, ledger and reports change."""

    folder: Path
    kinds: tuple[str, ...]
    seen: int = 0
    _known: dict[str, tuple[int, int]] = field(default_factory=dict)

    def look(self) -> int:
        """Changes so far: files that came, grew, were replaced or went."""
        places = [self.folder / "store" / kind for kind in self.kinds]
        places += [] if self.kinds else [self.folder / "reports"]
        now = dict(stamp for place in places for stamp in _stamps(place))
        self.seen += sum(now.get(n) != self._known.get(n) for n in now.keys() | self._known.keys())
        self._known = now
        return self.seen


def _stamps(folder: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _stamps(Path(entry.path))
            else:
                with suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    yield entry.path, (status.st_size, status.st_mtime_ns)


def orphans(folder: Path, patience: float = 3.0) -> list[int]:
    """Processes that still work in ``folder`` after ``patience`` seconds."""
    end = time.monotonic() + patience
    while (found := _working_in(folder)) and time.monotonic() < end:
        time.sleep(0.1)
    return found


def children(folder: Path, main: int) -> list[int]:
    """The processes below the main one."""
    return [pid for pid in _working_in(folder) if pid != main]


def _working_in(folder: Path) -> list[int]:
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        try:
            state = (link.parent / "stat").read_text().rpartition(")")[2].split()[0]
            if state != "Z" and str(link.readlink()).startswith(str(folder)):
                found.append(int(link.parent.name))
        except OSError:
            continue
    return found
