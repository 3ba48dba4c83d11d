"""The store: the folder of all artifacts. Finds, builds and repairs them.

An artifact exists when its manifest is valid and every file is there with its size; bytes are
compared when they are read (:meth:`Store.verify`). A folder that should be an artifact and is not
valid is moved to ``.quarantine`` when the artifact is built again.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from coincide.errors import UserError
from coincide.store import attempts, hashes
from coincide.store.artifact import (
    MANIFEST,
    Artifact,
    DamagedArtifact,
    UnreadableArtifact,
    folders,
    open_artifact,
)
from coincide.store.build import (
    Build,
    begin,
    build_each,
    bytes_left,
    clear,
    is_whole,
    measure,
    note_seconds,
    remove_unlisted,
    reuse_undamaged,
    write_manifest,
)
from coincide.store.check import QUARANTINE, first_five, move_foreign, not_repeated, quarantine
from coincide.store.lock import lock
from coincide.store.step import Step, by_key, differences
from coincide.system import disk
from coincide.system.files import fsync, remove_temporary

POLL = 0.2
"""Seconds between two checks of another process's attempt."""


class Store:
    """The folder of all artifacts."""

    def __init__(self, root: Path, *, lock_timeout: float = 24 * 3600.0) -> None:
        self.root = Path(root).absolute()
        self.lock_timeout = lock_timeout
        self._told: set[str] = set()

    # -- reading --

    def path(self, step: Step) -> Path:
        return self.root / step.folder

    def partial(self, step: Step) -> Path:
        """The folder in which ``step`` is being built, or in which its next build resumes."""
        return attempts.folder_of(self.root / step.kind, step.digits)

    def beside(self, step: Step, what: str) -> Path:
        """A folder beside ``step`` for its builders, e.g. for claims; not an artifact."""
        return self.root / step.kind / f".{what}-{step.digits}"

    def find(self, step: Step) -> Artifact | None:
        """The finished artifact of ``step``, under whatever readable name it was built.

        None if none. None as well if the manifest is invalid or another step's, or if files are
        missing or have another size. Bytes are not read. Raises :class:`UnreadableArtifact` if this
        user may not read it.
        """
        for folder in self._named(step):
            try:
                artifact = open_artifact(folder)
                if artifact.manifest.get("key") == step.key and not artifact.lacking():
                    return artifact
            except UnreadableArtifact:
                raise
            except DamagedArtifact:
                continue
        return None

    def artifact(self, step: Step) -> Artifact:
        """The finished artifact of ``step``, for its manifest.

        Call ``verify`` before reading its files. Raises UserError if there is none.
        """
        found = self.find(step)
        if found is None:
            why = self.fault(step) or "It was deleted or never built"
            raise UserError(
                f"{step.folder} is not in the store {self.root}. {why}; "
                "run the command without restricting its stages."
            )
        return found

    def fault(self, step: Step) -> str:
        """Why the folder in the place of ``step`` is not its artifact.

        Empty if there is no folder.
        """
        for folder in self._named(step):
            try:
                artifact = open_artifact(folder)
            except DamagedArtifact as error:
                return str(error)
            if artifact.manifest.get("key") != step.key:
                return f"{folder / MANIFEST} is that of another artifact"
            if lacking := artifact.lacking():
                short = first_five(lacking)
                return f"{artifact.name} is not whole: {short} missing or of another size"
        return ""

    def manifests(self, kind: str) -> Iterator[Mapping[str, Any]]:
        """The manifests of all artifacts of a kind; invalid ones are skipped with a message."""
        yield from (artifact.manifest for artifact in self.artifacts(kind))

    def artifacts(self, kind: str) -> Iterator[Artifact]:
        """All artifacts of a kind that have a manifest, complete or not."""
        for folder in folders(self.root / kind):
            try:
                yield open_artifact(folder)
            except DamagedArtifact as error:
                self._say(f"store: {error}; left out")

    def explain(self, step: Step) -> str:
        """Why ``step`` is not in the store: damage, or the fields that differ from the most similar
        artifact.
        """
        if fault := self.fault(step):
            return f"{fault}; it is moved to {QUARANTINE} and built again"
        found = [differences(step, manifest) for manifest in self.manifests(step.kind)]
        if not found:
            return f"no {step.kind} artifact yet"
        best = min(found, key=len)
        shown = ", ".join(best[:4]) + (f" and {len(best) - 4} more" if len(best) > 4 else "")
        return f"differs from the nearest in {shown}" if best else "its folder was removed"

    def _named(self, step: Step) -> list[Path]:
        """Folders with the key of ``step`` in their name, the one with its readable name first."""
        own = self.path(step)
        others = [p for p in folders(self.root / step.kind, step.digits) if p != own]
        return [*([own] if own.is_dir() else []), *others]

    def tidy(self, artifact: Artifact, step: Step) -> None:
        """Remove what killed processes left of building ``step``, which exists, and of hashing."""
        with suppress(OSError):  # a store that is only read
            attempts.remove_dead(self.root / step.kind, step.digits)
            attempts.settle(artifact.path)
        remove_temporary(self.root / hashes.FOLDER)

    # -- building --

    def ensure(self, step: Step) -> Artifact:
        """The artifact of ``step``, built now if it is missing.

        The artifacts it needs must exist.
        """
        return self.ensure_together([step], build_each)[0]

    def ensure_together(
        self, steps: Sequence[Step], build: Callable[[list[Build]], None]
    ) -> list[Artifact]:
        """The artifacts of ``steps``, missing ones built together, e.g. many signals in one pass.

        ``build`` gets one :class:`Build` for each missing step and commits each of them.
        """
        if any(self.find(step) is None for step in steps):
            with self._locks(steps):
                missing = [s for s in by_key(steps) if self.find(s) is None]
                with self._attempts(missing) as builds:
                    order = [s.key for s in steps]
                    if builds:
                        build(sorted(builds, key=lambda b: order.index(b.step.key)))
        return [self.artifact(step) for step in steps]

    def verify(self, step: Step, *patterns: str) -> Artifact:
        """The artifact of ``step``, after comparing its files (that match ``patterns``) with their
        hashes.

        Damaged files are built again, reusing undamaged ones if the builder can; meanwhile the
        artifact stays in place. Files that it was not written with are moved out of it. Raises
        :class:`DamagedArtifact` for one that took training.
        """
        if self.find(step) is None and self.fault(step):
            self.ensure(step)
        artifact = self.artifact(step)
        try:
            move_foreign(artifact)
        except OSError as error:
            raise self.as_disk_error(error, [step]) from error
        if not artifact.damaged(*patterns):
            self.tidy(artifact, step)
            return artifact
        if step.trained:
            raise not_repeated(artifact, artifact.damaged(*patterns))
        with self._locks([step]):
            return self._repair(step)

    def _repair(self, step: Step) -> Artifact:
        """Build the damaged files of ``step`` again. The caller holds its lock."""
        artifact = self.artifact(step)
        damaged = artifact.damaged()
        if not damaged:
            return artifact  # another process was first
        print(
            f"{step.folder}: hash mismatch in {first_five(damaged)}; rebuilding that alone",
            flush=True,
        )
        with self._attempts([step], source=artifact) as builds:
            for build in builds:
                facts = step.build(build) or {}
                files, _ = measure(build)
                if files != artifact.files:
                    self._replace(build, facts, artifact)
                    continue
                for name in damaged:
                    os.replace(build.dir / name, artifact.path / name)
                    fsync((artifact.path / name).parent)
                shutil.rmtree(build.dir, ignore_errors=True)
        return self.artifact(step)

    def _replace(self, build: Build, facts: Mapping[str, Any], artifact: Artifact) -> None:
        """Commit a repair whose bytes differ from the old ones, in place of ``artifact``."""
        files, _ = measure(build)
        write_manifest(build, facts, files)
        self._quarantine(artifact.path, "it was built again, with other bytes than before")
        self._finish(build.dir, build.step)

    def reopen(self, step: Step, without: Sequence[str]) -> None:
        """Make the artifact of ``step`` an unfinished attempt that lacks the files ``without``.

        The next build resumes from the other files; its seconds include those of this one.
        """
        with self._locks([step]):
            artifact = self.artifact(step)
            folder = self._take(step, repair=True)
            assert folder is not None
            try:
                left = shutil.ignore_patterns(MANIFEST, *without)
                shutil.copytree(artifact.path, folder, ignore=left, dirs_exist_ok=True)
                note_seconds(folder, artifact.seconds)
                gone = artifact.path.with_name(f".gone-{uuid.uuid4().hex[:8]}")
                os.rename(artifact.path, gone)
                shutil.rmtree(gone, ignore_errors=True)
                hashes.forget(artifact.path)
            finally:
                attempts.release(folder)

    @contextmanager
    def _attempts(
        self, missing: Sequence[Step], source: Artifact | None = None
    ) -> Iterator[list[Build]]:
        """An attempt for each of ``missing`` that no other process finishes in the meantime.

        ``source``: the damaged artifact, for a repair. Raises DiskError if the disk is full.
        """
        builds: list[Build] = []
        try:
            for step in missing:
                if (folder := self._take(step, repair=source is not None)) is not None:
                    builds.append(self._begin(step, folder, source))
            yield builds
        except Exception as error:
            raise self.as_disk_error(error, missing, needed=bytes_left(builds)) from error
        finally:
            for build in builds:
                attempts.release(build.dir)

    def _take(self, step: Step, *, repair: bool = False) -> Path | None:
        """A folder to build ``step`` in, once no other process builds it.

        None if it exists by then.
        """
        kind = self.root / step.kind
        began = time.monotonic()
        while isinstance(taken := attempts.take(kind, step.digits), attempts.Busy):
            waiting = f"{step.folder}: {taken.waiting}"
            self._say(waiting)
            if time.monotonic() - began > self.lock_timeout:
                raise UserError(f"{waiting}. Stop that process, or wait for it.")
            time.sleep(POLL)
            if not repair and self.find(step) is not None:
                return None
        if not repair and self.find(step) is not None:
            attempts.release(taken)
            shutil.rmtree(taken, ignore_errors=True)
            return None
        if (taken / MANIFEST).exists():
            if not repair and is_whole(taken, step):
                print(f"{step.folder}: finished by an attempt that was killed at its end")
                self._clear_place(step)
                self._finish(taken, step)
                return None
            (taken / MANIFEST).unlink()
        if repair:
            clear(taken)  # of an attempt from before the artifact stood
        return taken

    def _begin(self, step: Step, folder: Path, source: Artifact | None) -> Build:
        if source is not None:
            reuse_undamaged(source, folder, links=step.links)
        else:
            self._clear_place(step, folder)
        return begin(step, folder, self)

    def _clear_place(self, step: Step, attempt: Path | None = None) -> None:
        """Move an invalid folder in the place of ``step`` to the quarantine.

        Its undamaged files are put into ``attempt``.
        """
        fault = self.fault(step)
        for folder in self._named(step):
            with suppress(DamagedArtifact):
                artifact = open_artifact(folder)
                if attempt is not None and artifact.manifest.get("key") == step.key:
                    reuse_undamaged(artifact, attempt, links=step.links)
            self._quarantine(folder, fault)

    def _quarantine(self, folder: Path, why: str) -> None:
        quarantine(folder, why)
        hashes.forget(folder)

    def _commit(self, build: Build, facts: Mapping[str, Any]) -> Artifact:
        files, began = measure(build)
        write_manifest(build, facts, files)
        self._finish(build.dir, build.step)
        artifact = self.artifact(build.step)
        if artifact.files == files:
            (self.root / hashes.FOLDER).mkdir(exist_ok=True)
            hashes.remember(artifact.path, {n: f["sha256"] for n, f in files.items()}, began)
        return artifact

    def _finish(self, folder: Path, step: Step) -> None:
        """Rename a complete attempt into place.

        If another process was first, its artifact is used.
        """
        final = self.path(step)
        if not attempts.is_mine(folder):
            if self.find(step) is not None:
                return self._say(f"{step.folder}: another process finished it first; using that")
            raise UserError(
                f"{step.folder}: another process took over while this one was silent. Run the "
                "same command again; it goes on from there."
            )
        remove_unlisted(folder)
        for attempt in range(2):
            try:
                os.rename(folder, final)
                break
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or attempt:
                    raise
                if self.find(step) is not None:
                    self._say(f"{step.folder}: another process finished it first; using that")
                    shutil.rmtree(folder)
                    return None
                self._clear_place(step)
        fsync(final.parent)
        attempts.settle(final)
        attempts.remove_dead(final.parent, step.digits)
        return None

    # -- locks and errors --

    @contextmanager
    def _locks(self, steps: Sequence[Step]) -> Iterator[None]:
        with ExitStack() as stack:
            for step in by_key(steps):
                stack.enter_context(self._lock(step))
            yield

    def _lock(self, step: Step) -> AbstractContextManager[bool]:
        return lock(self, step)

    def as_disk_error(
        self, error: BaseException, steps: Iterable[Step], *, needed: int | None = None
    ) -> BaseException:
        """``error`` as a DiskError that names ``steps`` if the store's disk is its cause; else
        ``error``.
        """
        what = ", ".join(step.folder for step in steps) + " in the store"
        remedy = "Set paths.store to a larger disk that you may write to."
        return disk.as_disk_error(error, self.root, what, remedy, needed=needed)

    def _say(self, text: str) -> None:
        """Print ``text``, only once."""
        if text not in self._told:
            self._told.add(text)
            print(text, flush=True)
