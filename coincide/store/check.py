"""Check a whole store: compare every artifact with its manifest, and repair damaged ones."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from coincide.errors import UserError
from coincide.store.artifact import (
    MANIFEST,
    Artifact,
    DamagedArtifact,
    UnreadableArtifact,
    folders,
    open_artifact,
)

QUARANTINE = ".quarantine"
UNFINISHED = (".partial-*", ".by-picture-*")
"""Names of folders with unfinished work, below the folder of a kind."""
TRAINED = ("adapter", "difficulty")
"""Kinds that take training, for manifests of earlier versions that do not say so."""


@dataclass(frozen=True)
class CheckedArtifact:
    """The result of checking one artifact."""

    folder: Path
    wrong: tuple[str, ...] = ()
    """Names of the damaged files; may include the manifest."""
    why: str = ""
    """What is damaged, and what to do; empty for an undamaged artifact."""
    bytes: int = 0
    """Size of its files."""
    trained: bool = False
    """Whether it took training, and so is not built again without being asked."""
    foreign: tuple[str, ...] = ()
    """Names of files that it was not written with."""


def examine(store: Path) -> Iterator[CheckedArtifact]:
    """Check every artifact of the store, all bytes. Raises UserError if ``store`` is no folder."""
    if not store.is_dir():
        raise UserError(f"{store}: no such store; expected a folder like store/.")
    for kind in sorted(path for path in store.absolute().iterdir() if path.is_dir()):
        if not kind.name.startswith("."):
            for folder in folders(kind):
                yield _examine(folder)


@dataclass(frozen=True)
class Unfinished:
    """Work that processes have begun in a store and not ended."""

    folders: int
    bytes: int


def unfinished(store: Path) -> Unfinished:
    """Attempts at artifacts, and values of passes not yet in their shards: of runs that go on, or
    that were killed and are gone on from when they are asked for again.
    """
    found = [folder for name in UNFINISHED for folder in store.glob(f"*/{name}")]
    files = (path for folder in found for path in folder.rglob("*"))
    size = 0
    for path in files:
        with suppress(FileNotFoundError):  # a run that goes on may have moved it
            size += path.lstat().st_size if path.is_file() else 0
    return Unfinished(len(found), size)


def _examine(folder: Path) -> CheckedArtifact:
    try:
        artifact = open_artifact(folder)
    except DamagedArtifact as error:
        return CheckedArtifact(folder, (MANIFEST,), f"{error}.")
    size = sum(int(file["size"]) for file in artifact.files.values())
    trained = bool(artifact.manifest.get("trained", folder.parent.name in TRAINED))
    try:
        wrong = tuple(artifact.damaged())
    except UnreadableArtifact as error:
        return CheckedArtifact(folder, (MANIFEST,), str(error))
    why = [f"{artifact.damage(wrong)} {_what_to_do(folder) if trained else ''}"] if wrong else []
    if foreign := tuple(artifact.foreign()):
        why.append(f"{artifact.name} was not written with {first_five(foreign)}.")
    return CheckedArtifact(folder, wrong, " ".join(why).strip(), size, trained, foreign)


def _what_to_do(folder: Path) -> str:
    return (
        "It took training, which is not repeated unasked: put the file back from a copy, or remove "
        f"{folder} and run the same command again to train it anew."
    )


def not_repeated(artifact: Artifact, wrong: list[str]) -> DamagedArtifact:
    """The error for a damaged artifact that took training."""
    return DamagedArtifact(f"{artifact.damage(wrong)} {_what_to_do(artifact.path)}")


def repair(found: CheckedArtifact) -> bool:
    """Prepare a damaged artifact to be built again by the next run that needs it.

    Its damaged files, and files that it was not written with, go to the quarantine; the others
    stay for that run to reuse. Returns False for one that took training and lacks files, and for
    one that this user may not read: of these nothing is removed.
    """
    try:
        artifact = open_artifact(found.folder)
        artifact.damaged()
    except UnreadableArtifact:
        return False
    except DamagedArtifact as error:
        quarantine(found.folder, str(error))
        return True
    move_foreign(artifact)
    if found.wrong and not found.trained:
        set_aside(artifact, found.wrong, "they are damaged; the next run builds them again")
    return not (found.wrong and found.trained)


def quarantine(folder: Path, why: str) -> None:
    """Move ``folder``, which is no valid artifact, to the quarantine, and print why."""
    target = _aside(folder)
    folder.rename(target)
    print(f"store: {why}. It was moved to {target}; remove it when you like.", flush=True)


def set_aside(artifact: Artifact, files: Sequence[str], why: str) -> None:
    """Move ``files``, which may be gone by now, out of an artifact into the quarantine."""
    target = _aside(artifact.path)
    for name in files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            shutil.move(artifact.path / name, target / name)
    print(f"store: {first_five(files)} of {artifact.name} moved to {target}: {why}.", flush=True)


def move_foreign(artifact: Artifact) -> None:
    """Move files that an artifact was not written with into the quarantine, and print which."""
    if foreign := artifact.foreign():
        set_aside(artifact, foreign, "it was not written with them")


def first_five(files: Sequence[str]) -> str:
    """The first five of ``files``, and how many more there are."""
    more = f" and {len(files) - 5} more" if len(files) > 5 else ""
    return ", ".join(files[:5]) + more


def _aside(folder: Path) -> Path:
    target = folder.parent.parent / QUARANTINE / folder.parent.name
    target.mkdir(parents=True, exist_ok=True)
    stamp = time.strftime("%Y%m%dT%H%M%S")
    return target / f"{folder.name}-{stamp}-{uuid.uuid4().hex[:4]}"
