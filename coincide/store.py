"""Content-addressed artifacts: ``<store>/<kind>/<name>-<12 hex>/`` with ``manifest.json`` last.

A :class:`Step` says what an artifact is (its key) and how to build it. Building happens in a
``.partial-<key>`` folder that survives a kill, so a builder that skips the files it finds there
resumes; the finished folder gets its manifest and is renamed into place. Locks only save work:
without them two builders write to folders of their own and the first rename wins.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from coincide.errors import UserError
from coincide.files import canonical, fsync_dir, sha256_file, write_json

MANIFEST = "manifest.json"


@dataclass(frozen=True, eq=False)
class Step:
    """An artifact before it exists. Two steps with the same key are the same artifact."""

    kind: str
    """Folder under the store, e.g. ``features``."""
    name: str
    """Readable part of the folder's name; not in the key."""
    version: int
    """Code version of the step: raise it when the same config starts to give another answer."""
    config: Mapping[str, Any]
    """What changes the answer, as JSON. What only changes its speed stays out."""
    build: Callable[[Build], Mapping[str, Any] | None] = field(repr=False)
    """Writes files into ``build.dir``; returns facts for the manifest."""
    needs: tuple[Step, ...] = ()
    note: str = ""
    """One line for the plan, e.g. the number of examples."""

    @cached_property
    def key(self) -> str:
        content = {
            "kind": self.kind,
            "version": self.version,
            "config": json.loads(canonical(self.config)),
            "needs": [need.key for need in self.needs],
        }
        return hashlib.sha256(canonical(content).encode()).hexdigest()

    @property
    def folder(self) -> str:
        return f"{self.kind}/{self.name}-{self.key[:12]}"


@dataclass(frozen=True)
class Artifact:
    """A finished artifact: its folder and its manifest."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def facts(self) -> Mapping[str, Any]:
        return self.manifest["facts"]

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of the build over all attempts, killed ones up to their last file."""
        return self.manifest["seconds"]

    def damaged(self) -> list[str]:
        """Names of files that are missing or whose bytes differ from the manifest's."""
        return [
            name
            for name, expected in self.manifest["files"].items()
            if not (self.path / name).is_file()
            or (self.path / name).stat().st_size != expected["size"]
            or sha256_file(self.path / name) != expected["sha256"]
        ]


@dataclass
class Build:
    """Handed to a builder: the partial folder to fill, and the artifacts it may read."""

    step: Step
    dir: Path
    store: Store
    attempt: int = 1
    resumed: list[str] = field(default_factory=list)
    """Files found from an earlier, killed attempt."""
    earlier: float = 0.0
    """Seconds that killed attempts worked, up to the last file that they wrote."""
    _started: float = field(default_factory=time.monotonic)

    def need(self, index: int) -> Artifact:
        """The artifact of ``step.needs[index]``."""
        return self.store.artifact(self.step.needs[index])

    def commit(self, facts: Mapping[str, Any] | None = None) -> Artifact:
        """Write the manifest, rename the folder into place. The artifact exists from here on."""
        return self.store._commit(self, facts or {})


class Store:
    """The folder of all artifacts."""

    def __init__(self, root: Path, *, lock_timeout: float = 24 * 3600.0) -> None:
        self.root = Path(root).absolute()
        self.lock_timeout = lock_timeout
        self._verified: set[str] = set()

    # -- reading --

    def path(self, step: Step) -> Path:
        return self.root / step.folder

    def find(self, step: Step) -> Artifact | None:
        """The finished artifact of ``step``, whatever readable name it was built under."""
        path = self.path(step)
        if not (path / MANIFEST).is_file():
            named = sorted((self.root / step.kind).glob(f"*-{step.key[:12]}/{MANIFEST}"))
            if not named:
                return None
            path = named[0].parent
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        return Artifact(path, manifest) if manifest["key"] == step.key else None

    def artifact(self, step: Step) -> Artifact:
        found = self.find(step)
        if found is None:
            raise UserError(
                f"{step.folder} is not in the store {self.root}. It was deleted or never built; "
                "run the command without restricting its stages."
            )
        return found

    def manifests(self, kind: str) -> Iterator[dict[str, Any]]:
        for path in sorted((self.root / kind).glob(f"*/{MANIFEST}")):
            yield json.loads(path.read_text(encoding="utf-8"))

    def explain(self, step: Step) -> str:
        """Why ``step`` is a miss: the fields that differ from the nearest finished artifact."""
        wanted = _flat({"version": step.version, **step.config, **_need_fields(step.needs)})
        best: list[str] | None = None
        for manifest in self.manifests(step.kind):
            have = _flat(
                {"version": manifest["version"], **manifest["config"], **manifest["needs"]}
            )
            differing = sorted(
                k for k in wanted.keys() | have.keys() if wanted.get(k) != have.get(k)
            )
            if best is None or len(differing) < len(best):
                best = [
                    f"{k}: {have.get(k, 'absent')} -> {wanted.get(k, 'absent')}" for k in differing
                ]
        if best is None:
            return f"no {step.kind} artifact yet"
        shown = ", ".join(best[:4]) + (f" and {len(best) - 4} more" if len(best) > 4 else "")
        return f"differs from the nearest in {shown}" if best else "its folder was removed"

    # -- building --

    def ensure(self, step: Step) -> Artifact:
        """The artifact of ``step``, built now if it is missing. Its needs must exist."""
        return self.ensure_together([step], lambda builds: _build_each(builds))[0]

    def ensure_together(
        self, steps: Sequence[Step], build: Callable[[list[Build]], None]
    ) -> list[Artifact]:
        """Build the missing ones among ``steps`` in one go, e.g. many signals in one pass.

        ``build`` gets one :class:`Build` per missing step and commits each of them.
        """
        if any(self.find(step) is None for step in steps):
            with ExitStack() as stack:
                held = {s.key: stack.enter_context(self._lock(s)) for s in _by_key(steps)}
                missing = [s for s in steps if self.find(s) is None]
                if missing:
                    builds = [self._open(s, locked=held[s.key]) for s in missing]
                    try:
                        build(builds)
                    except OSError as error:
                        raise self._out_of_space(error, missing) from error
        return [self.artifact(step) for step in steps]

    def verify(self, step: Step) -> Artifact:
        """The artifact of ``step`` with every byte checked once per process.

        Damaged files are removed and rebuilt, and only they: the folder becomes a partial one
        again, and the builder resumes from what is sound.
        """
        artifact = self.artifact(step)
        if step.key in self._verified:
            return artifact
        damaged = artifact.damaged()
        if damaged:
            print(f"{step.folder}: hash mismatch in {', '.join(damaged)}; rebuilding that alone")
            self.reopen(step, damaged)
            artifact = self.ensure(step)
        self._verified.add(step.key)
        return artifact

    def reopen(self, step: Step, without: Sequence[str]) -> None:
        """Make the artifact of ``step`` an unfinished one that lacks the files ``without``.

        The next build resumes from the others, and its seconds count those of this one.
        """
        artifact, partial = self.artifact(step), self._partial(step)
        shutil.rmtree(partial, ignore_errors=True)
        os.replace(artifact.path, partial)
        for name in [*without, MANIFEST]:
            (partial / name).unlink(missing_ok=True)
        # as an attempt that begins now, after so many seconds, and has written nothing since
        (partial / ".attempts").write_text(f"{time.time()} {artifact.seconds}\n", encoding="utf-8")

    def _partial(self, step: Step) -> Path:
        return self.root / step.kind / f".partial-{step.key[:12]}"

    def _open(self, step: Step, *, locked: bool) -> Build:
        path = self._partial(step)
        if not locked:
            path = path.with_name(f"{path.name}-{uuid.uuid4().hex[:8]}")
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._out_of_space(error, [step]) from error
        for stale in path.rglob(".tmp-*"):
            stale.unlink(missing_ok=True)
        resumed = sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())
        attempt, earlier = _begin_attempt(path / ".attempts", [path / name for name in resumed])
        files = [name for name in resumed if not name.startswith(".")]
        return Build(step, path, self, attempt, files, earlier)

    def _commit(self, build: Build, facts: Mapping[str, Any]) -> Artifact:
        step = build.step
        (build.dir / ".attempts").unlink(missing_ok=True)
        files = sorted(p for p in build.dir.rglob("*") if p.is_file() and p.name != MANIFEST)
        manifest = {
            "key": step.key,
            "kind": step.kind,
            "name": step.name,
            "version": step.version,
            "config": json.loads(canonical(step.config)),
            "needs": _need_fields(step.needs),
            "files": {
                str(p.relative_to(build.dir)): {"size": p.stat().st_size, "sha256": sha256_file(p)}
                for p in files
            },
            "facts": dict(facts),
            "attempts": build.attempt,
            "seconds": round(build.earlier + time.monotonic() - build._started, 3),
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "environment": environment(),
        }
        write_json(build.dir / MANIFEST, manifest)
        final = self.path(step)
        try:
            os.rename(build.dir, final)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            shutil.rmtree(build.dir)  # another builder was first; its answer is the same
        fsync_dir(final.parent)
        return self.artifact(step)

    @contextmanager
    def _lock(self, step: Step) -> Iterator[bool]:
        """Hold the lock of ``step``. False where the file system has none; then go on without."""
        folder = self.root / ".locks"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / f"{step.kind}-{step.key[:12]}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                print(f"waiting for another process that builds {step.folder}", flush=True)
                lock.acquire(timeout=self.lock_timeout)
        except Timeout as error:
            raise UserError(
                f"{step.folder} has been locked by another process for {self.lock_timeout:.0f} s. "
                f"Stop that process, or wait for it."
            ) from error
        except (OSError, NotImplementedError) as error:
            if getattr(error, "errno", None) in (
                errno.ENOSPC,
                errno.EROFS,
                errno.EACCES,
                errno.EDQUOT,
            ):
                raise self._out_of_space(error, [step]) from error
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def _out_of_space(self, error: BaseException, steps: Iterable[Step]) -> BaseException:
        names = ", ".join(s.folder for s in steps)
        code = getattr(error, "errno", None)
        if code in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(self.root).free
            return UserError(
                f"The store {self.root} is full while writing {names}: {free:,} bytes free. "
                "Free some space or set paths.store to a larger disk; the run resumes from here."
            )
        if code in (errno.EROFS, errno.EACCES, errno.EPERM):
            return UserError(
                f"The store {self.root} cannot be written ({error}) while writing {names}. "
                "Set paths.store to a folder you may write to."
            )
        return error


def environment() -> dict[str, Any]:
    """Library versions, commit and hardware: recorded in manifests, never part of a key."""
    from coincide.provenance import environment as record

    return record()


def _build_each(builds: list[Build]) -> None:
    for build in builds:
        build.commit(build.step.build(build))


def _by_key(steps: Sequence[Step]) -> list[Step]:
    """One step per key, in key order: the order in which every process takes the locks."""
    return [s for _, s in sorted({s.key: s for s in steps}.items())]


def _begin_attempt(log: Path, found: Sequence[Path]) -> tuple[int, float]:
    """Number of the attempt that begins now, and how long the earlier ones worked, in seconds.

    ``log`` has a line for each: when it began, and how long those before it worked. ``found`` are
    the files that they left.
    """
    lines = log.read_text().splitlines() if log.is_file() else []
    earlier = 0.0
    with suppress(ValueError):  # a line that a kill cut short, or of other code: time unknown
        began, earlier = map(float, (lines or [""])[-1].split())
        last = max((p.stat().st_mtime for p in found if p != log), default=began)
        earlier += max(0.0, last - began)
    with log.open("a", encoding="utf-8") as handle:
        handle.write(f"{time.time()} {earlier}\n")
    return len(lines) + 1, earlier


def _need_fields(needs: Sequence[Step]) -> dict[str, str]:
    return {f"needs.{i}.{n.kind}": f"{n.name}-{n.key[:12]}" for i, n in enumerate(needs)}


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat.update(_flat(item, f"{prefix}.{key}" if prefix else str(key)))
    return flat
