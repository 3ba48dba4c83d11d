"""Check a whole store: compare every artifact with its manifest, and repair damaged ones."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from coincide.errors import UserError
from coincide.store.artifact import MANIFEST, Artifact, DamagedArtifact, folders, open_artifact

QUARANTINE = ".quarantine"
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


def examine(store: Path) -> Iterator[CheckedArtifact]:
    """Check every artifact of the store, all bytes. Raises UserError if ``store`` is no folder."""
    if not store.is_dir():
        raise UserError(f"{store}: no such store; expected a folder like store/.")
    for kind in sorted(path for path in store.absolute().iterdir() if path.is_dir()):
        if not kind.name.startswith("."):
            for folder in folders(kind):
                yield _examine(folder)


def _examine(folder: Path) -> CheckedArtifact:
    try:
        artifact = open_artifact(folder)
    except DamagedArtifact as error:
        return CheckedArtifact(folder, (MANIFEST,), f"{error}.")
    size = sum(int(file["size"]) for file in artifact.files.values())
    trained = bool(artifact.manifest.get("trained", folder.parent.name in TRAINED))
    wrong = tuple(artifact.damaged())
    why = f"{artifact.damage(wrong)} {_what_to_do(folder) if trained else ''}" if wrong else ""
    return CheckedArtifact(folder, wrong, why.strip(), size, trained)


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

    Its damaged files go to the quarantine; the others stay for that run to reuse. Returns False,
    and does nothing, for one that took training.
    """
    try:
        artifact = open_artifact(found.folder)
    except DamagedArtifact as error:
        quarantine(found.folder, str(error))
        return True
    if found.trained:
        return False
    _set_aside(artifact, found.wrong)
    return True


def quarantine(folder: Path, why: str) -> None:
    """Move ``folder``, which is no valid artifact, to the quarantine, and print why."""
    target = _aside(folder)
    folder.rename(target)
    print(f"store: {why}. It was moved to {target}; remove it when you like.", flush=True)


def _set_aside(artifact: Artifact, files: tuple[str, ...]) -> None:
    target = _aside(artifact.path)
    for name in files:
        source = artifact.path / name
        if source.is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(source, target / name)
    print(
        f"store: the damaged files of {artifact.name} were moved to {target}; the next run that "
        "needs it builds them again.",
        flush=True,
    )


def _aside(folder: Path) -> Path:
    target = folder.parent.parent / QUARANTINE / folder.parent.name
    target.mkdir(parents=True, exist_ok=True)
    stamp = time.strftime("%Y%m%dT%H%M%S")
    return target / f"{folder.name}-{stamp}-{uuid.uuid4().hex[:4]}"
