"""What the storm stands on: the shrunk demo run once undisturbed, copies of it, and comparisons."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.command.conftest import ROOT, SMALL, environment

STAGES = ("prepare", "features", "select", "train", "evaluate", "report")
KINDS = {
    "prepare": ("data", "model", "features"), "features": ("features",),
    "select": ("clusters", "subset"), "train": ("adapter",), "evaluate": ("eval",), "report": (),
}  # fmt: skip
"""What each stage makes; features stand on what is prepared, and ask for it."""
LEFT = (".partial-*", ".claimed-*", ".claims-*", ".tmp-*", ".gone-*", ".owner-*")
"""Names that nothing may leave behind in store, ledger and reports."""


@dataclass(frozen=True)
class Ended:
    """A run of the command: its status and all that it printed."""

    code: int
    said: str


def command(*words: str) -> list[str]:
    return [sys.executable, str(ROOT / "run.py"), *SMALL, *words]


def start(folder: Path, words: Sequence[str], prepare: Callable[[], None] | None = None):  # type: ignore[no-untyped-def]
    """The command in a session of its own, its output in ``folder/said``."""
    with (folder / "said").open("wb") as said:
        return subprocess.Popen(
            command(*words), cwd=folder, env=environment(), stdout=said, stderr=subprocess.STDOUT,
            start_new_session=True, preexec_fn=prepare,
        )  # fmt: skip


def run(folder: Path, *words: str, prepare: Callable[[], None] | None = None) -> Ended:
    """The command to its end."""
    code = start(folder, words, prepare).wait()
    return Ended(code, (folder / "said").read_text(errors="replace"))


def base(folder: Path) -> Path:
    """A folder in which the demo ran through once; made when ``folder`` does not hold it."""
    if not (folder / "whole").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        ended = run(folder)
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
