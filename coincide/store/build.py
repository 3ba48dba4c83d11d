"""An attempt to build an artifact, as its builder sees it, and how it becomes the artifact."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coincide.store import attempts, hashes
from coincide.store.artifact import MANIFEST, Artifact, DamagedArtifact, open_artifact, sealed
from coincide.store.step import Step, need_fields
from coincide.system.files import TEMPORARY, canonical, fsync, sha256_file, write_atomic, write_json
from coincide.terminal.redact import redact

if TYPE_CHECKING:
    from coincide.store.store import Store


@dataclass
class Build:
    """Given to a builder: the folder to fill, and access to the artifacts that the step needs."""

    step: Step
    dir: Path
    store: Store
    attempt: int = 1
    resumed: list[str] = field(default_factory=list)
    """Files that an earlier, killed attempt left."""
    earlier: float = 0.0
    """Seconds that killed attempts worked, up to the last file that they wrote."""
    scratch: tuple[str, ...] = ()
    """Folders and files of the attempt that are not part of the artifact; removed when it is
    finished."""
    expected: int | None = None
    """Bytes that the artifact will take, if the builder knows them beforehand."""
    _started: float = field(default_factory=time.monotonic)

    def need(self, index: int) -> Artifact:
        """The artifact of ``step.needs[index]``, after comparing every file with its hash."""
        return self.store.verify(self.step.needs[index])

    def expect(self, size: int) -> None:
        """Announce that the artifact will take ``size`` bytes; named when the disk is full."""
        self.expected = int(size)

    def left(self) -> int | None:
        """Bytes that are still to be written; None if unknown."""
        if self.expected is None:
            return None
        written = sum(p.stat().st_size for p in self.dir.rglob("*") if p.is_file())
        return max(0, self.expected - written)

    def commit(self, facts: Mapping[str, Any] | None = None) -> Artifact:
        """Write the manifest with ``facts`` and rename the folder into place: the artifact exists
        from now on.
        """
        return self.store._commit(self, facts or {})

    @property
    def seconds(self) -> float:
        """Seconds of all attempts so far."""
        return round(self.earlier + time.monotonic() - self._started, 3)


def build_each(builds: Sequence[Build]) -> None:
    """Build and commit each of ``builds``."""
    for build in builds:
        build.commit(build.step.build(build))


def bytes_left(builds: Sequence[Build]) -> int | None:
    """Bytes that ``builds`` still want to write, as far as they know; None if none knows."""
    with suppress(OSError):
        return sum(build.left() or 0 for build in builds) or None
    return None


def begin(step: Step, folder: Path, store: Store) -> Build:
    """An attempt in ``folder``, which this process holds, with the files of an earlier attempt."""
    for stale in folder.rglob(f"{TEMPORARY}*"):
        stale.unlink(missing_ok=True)
    drop_damaged(folder, step.folder)
    found = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    resumed = [name for name in found if not attempts.is_private(name)]
    attempt, earlier = _begin_attempt(folder / attempts.LOG, [folder / name for name in resumed])
    return Build(step, folder, store, attempt, resumed, earlier)


def note_done(path: Path) -> None:
    """Store the hash of a finished file, so that a later attempt can trust the file."""
    sums = path.parent / attempts.SUMS
    sums.mkdir(exist_ok=True)
    digest = sha256_file(path)
    write_atomic(sums / path.name, lambda temporary: _write(temporary, digest))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def drop_damaged(folder: Path, name: str) -> None:
    """Remove files of an earlier attempt in ``folder`` whose content differs from the hash that it
    stored; each is printed, as one of ``name``.
    """
    for noted in sorted((folder / attempts.SUMS).glob("*")):
        path = folder / noted.name
        if path.is_file() and sha256_file(path) != noted.read_text(encoding="utf-8"):
            print(f"{name}: {noted.name} was damaged after a kill; it is built again")
            path.unlink()


def measure(build: Build) -> tuple[dict[str, dict[str, Any]], int]:
    """Name -> size and hash of every file of the attempt, after fsync; and when measuring began
    (ns).

    ``scratch``, unfinished files and the store's own files are left out.
    """
    began = time.time_ns()
    found = {}
    for path in sorted(p for p in build.dir.rglob("*") if p.is_file()):
        name = str(path.relative_to(build.dir))
        first = name.split("/", 1)[0]
        private = attempts.is_private(name) or path.name.startswith(TEMPORARY)
        if private or name == MANIFEST or first in build.scratch:
            continue
        fsync(path)
        found[name] = {"size": path.stat().st_size, "sha256": sha256_file(path)}
    for folder in {(build.dir / name).parent for name in found}:
        fsync(folder)
    return found, began


def write_manifest(
    build: Build, facts: Mapping[str, Any], files: Mapping[str, Mapping[str, Any]]
) -> None:
    """Write the manifest, without credentials: the attempt is then complete and only has to be
    renamed.
    """
    step = build.step
    told = {"name": step.name, "config": json.loads(canonical(step.config)), "facts": dict(facts)}
    manifest = {
        **redact({**told, "environment": environment()}),
        "key": step.key,
        "kind": step.kind,
        "version": step.version,
        "needs": need_fields(step.needs),
        "files": files,
        "trained": step.trained,
        "attempts": build.attempt,
        "seconds": build.seconds,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    write_json(build.dir / MANIFEST, sealed(json.loads(canonical(manifest))))


def is_whole(folder: Path, step: Step) -> bool:
    """Whether an attempt was killed after its manifest was written, with all files undamaged."""
    try:
        artifact = open_artifact(folder)
        return artifact.manifest.get("key") == step.key and not artifact.damaged()
    except DamagedArtifact:
        return False
    finally:
        hashes.forget(folder)


def clear(folder: Path) -> None:
    """Empty the folder of an attempt, except for the file that names its process."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif not attempts.is_owner(path.name):
            path.unlink()


def remove_unlisted(folder: Path) -> None:
    """Remove files of a complete attempt that its manifest does not name, except the owner's
    file.
    """
    named = {MANIFEST, *open_artifact(folder).files}
    for path in sorted(folder.rglob("*"), reverse=True):
        name = str(path.relative_to(folder))
        if path.is_dir() and not path.is_symlink():
            with suppress(OSError):
                path.rmdir()  # those that are empty now
        elif name not in named and not attempts.is_owner(name):
            path.unlink(missing_ok=True)


def reuse_undamaged(artifact: Artifact, into: Path, *, links: bool) -> None:
    """Copy (or hard-link, with ``links``) the undamaged files of ``artifact`` to the folder
    ``into``.

    Files that are there already are kept.
    """
    wrong = set(artifact.damaged())
    for name in artifact.files:
        target = into / name
        if name in wrong or target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            if not links:
                raise OSError
            os.link(artifact.path / name, target)
        except OSError:  # or the file system has no links
            shutil.copy2(artifact.path / name, target)


def note_seconds(folder: Path, seconds: float) -> None:
    """Record an earlier attempt of ``seconds`` in ``folder``."""
    (folder / attempts.LOG).write_text(f"{time.time()} {seconds}\n", encoding="utf-8")


def environment() -> dict[str, Any]:
    """Library versions, commit and hardware: recorded in manifests, never part of a key."""
    from coincide.store.provenance import environment as record

    return record()


def _begin_attempt(log: Path, found: Sequence[Path]) -> tuple[int, float]:
    """Number of the attempt that begins now, and seconds that the earlier ones worked.

    ``log`` has a line for each attempt: when it began, and how long those before it worked.
    ``found`` are the files that they left.
    """
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    earlier = 0.0
    with suppress(ValueError):  # a line that a kill cut short, or of other code: time unknown
        began, earlier = map(float, (lines or [""])[-1].split())
        last = max((p.stat().st_mtime for p in found), default=began)
        earlier += max(0.0, last - began)
    with log.open("a", encoding="utf-8") as handle:
        handle.write(f"{time.time()} {earlier}\n")
    return len(lines) + 1, earlier
