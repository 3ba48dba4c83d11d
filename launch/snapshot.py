"""A copy of the code at the time when a sweep was submitted, one per content; its jobs run from
it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from coincide.store.provenance import FROZEN_COMMIT, commit

PROJECT = Path(__file__).resolve().parent.parent
LEFT_OUT = {"__pycache__", "tests", "bench", "local"}


def snapshot(folder: Path, project: Path = PROJECT) -> Path:
    """Copy the project's code below ``folder``, unless there is a copy with this content.

    Returns it. Copied are ``*.py`` beside ``run.py``, every package beside it except tests and
    benchmarks, and ``conf`` for reference. Uncommitted edits are included; the commit is noted in
    the copy.
    """
    files = sorted(_files(project))
    digest = hashlib.sha256()
    for path in files:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(project)} {content}\n".encode())
    final = folder / digest.hexdigest()[:12]
    if not final.is_dir():
        _copy(files, project, final)
    return final


def _files(project: Path) -> Iterator[Path]:
    yield from project.glob("*.py")
    packages = [path.parent for path in project.glob("*/__init__.py")]
    for package in [*packages, project / "conf"]:
        if package.name not in LEFT_OUT:
            for path in package.rglob("*"):
                inside = path.relative_to(package).parts
                if path.is_file() and not LEFT_OUT.intersection(inside[:-1]):
                    yield path


def _copy(files: list[Path], project: Path, final: Path) -> None:
    partial = final.with_name(f".copying-{uuid.uuid4().hex[:8]}")
    for path in files:
        target = partial / path.relative_to(project)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    (partial / FROZEN_COMMIT).write_text(commit() + "\n", encoding="utf-8")
    try:
        os.rename(partial, final)
    except OSError:
        if not final.is_dir():
            raise
        with suppress(OSError):  # another submission was first
            shutil.rmtree(partial)
