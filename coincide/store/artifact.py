"""A finished artifact: its manifest, and its files, which are compared with it before they are
read.

Code outside a run (report, export, compare, wandb) uses :func:`find_recorded` and
:func:`open_artifact` to find artifacts, and :meth:`Artifact.file` to read their files.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from coincide.errors import UserError
from coincide.store.hashes import SETTLED, Stamp, digests, stamp
from coincide.system.files import digest_of

MANIFEST = "manifest.json"
SEAL = "sha256"
"""Field of a manifest: the hash of its other fields. Absent in manifests of earlier versions."""
_OPENED: dict[Path, tuple[Stamp, Mapping[str, Any]]] = {}
"""Manifests that this process has read and found sound, with the stamp of the file: it is read
again only after it was touched, as in ``coincide.store.hashes``."""
_KEPT, _SHORT = 2048, 1 << 14
"""How many, and of how many characters at most: not those that list the pictures of a dataset."""
_KEY = re.compile(r"-([0-9a-z]+)$")
_IN_STORE = re.compile(r"-[0-9a-f]{12}$")


class DamagedArtifact(UserError):
    """A file of an artifact, or its manifest, differs from what was written."""


class UnreadableArtifact(DamagedArtifact):
    """This user may not read a file of an artifact: no reason to build it again."""

    def __init__(self, named: str, error: OSError) -> None:
        super().__init__(
            f"{named} cannot be read: {error.filename} ({error.strerror}). Give this user the "
            "right to read it, or set paths.store to a store of your own."
        )


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
        """Wall-clock seconds of the build over all attempts.

        A killed one counts up to its last file.
        """
        return self.manifest["seconds"]

    @property
    def name(self) -> str:
        """``<kind>/<name>-<12 hex>``."""
        return f"{self.path.parent.name}/{self.path.name}"

    @property
    def files(self) -> Mapping[str, Mapping[str, Any]]:
        """Name -> ``size`` and ``sha256`` of each file, as written."""
        return self.manifest.get("files", {})

    def lacking(self) -> list[str]:
        """Names of files that are missing or have another size. Reads no file.

        Raises :class:`UnreadableArtifact`, as :meth:`damaged` does.
        """
        folder = str(self.path)  # joined as text: a third of the time, thousands of times
        try:
            return [
                name
                for name, expected in self.files.items()
                if (seen := stamp(f"{folder}/{name}")) is None or seen[0] != expected["size"]
            ]
        except PermissionError as error:
            raise UnreadableArtifact(self.name, error) from error

    def damaged(self, *patterns: str) -> list[str]:
        """Names of files that are missing or whose hash differs from the manifest's.

        ``patterns``: only files that match one of them, e.g. ``valid-*.npy``. The hash of a file
        that was not touched since it was last hashed is not computed again.
        Raises UnreadableArtifact where a file cannot be read at all.
        """
        names = self.matching(*patterns)
        wrong = set(self.lacking()) & set(names)
        try:
            measured = digests(self.path, [name for name in names if name not in wrong])
        except PermissionError as error:
            raise UnreadableArtifact(self.name, error) from error
        wrong |= {n for n, digest in measured.items() if digest != self.files[n]["sha256"]}
        return sorted(wrong)

    def matching(self, *patterns: str) -> list[str]:
        """Names of its files that match one of ``patterns``; without patterns, all of them."""
        return [n for n in self.files if not patterns or _matches(n, patterns)]

    def foreign(self) -> list[str]:
        """Names of files in its folder that it was not written with: a reader of all
        ``values-*.npy`` would read them, too. Hidden files do not count; for a manifest without
        files the list is empty.
        """
        if not self.files:
            return []
        found = []
        for folder, below, names in os.walk(self.path):
            below[:] = [name for name in below if not name.startswith(".")]
            inside = os.path.relpath(folder, self.path)
            found += [os.path.normpath(f"{inside}/{n}") for n in names if not n.startswith(".")]
        return sorted(set(found) - {MANIFEST, *self.files})

    def check(self, *patterns: str) -> Artifact:
        """This artifact, after comparing its files that match ``patterns`` (none: all) with their
        hashes.

        Raises :class:`DamagedArtifact`, naming the artifact, the files and what to do.
        """
        if wrong := self.damaged(*patterns):
            raise DamagedArtifact(
                f"{self.damage(wrong)} Run the command that made it and it is repaired, or "
                "`python -m coincide.store verify --repair`."
            )
        return self

    def file(self, name: str) -> Path:
        """The path of the file ``name``, after comparing its hash. The file need not exist.

        Raises :class:`DamagedArtifact` if it is not what was written.
        """
        path = self.check(_literal(name)).path / name
        if self.files and name not in self.files and path.exists():
            raise DamagedArtifact(f"{self.name} is damaged: it was not written with {path}.")
        return path

    def damage(self, wrong: Sequence[str]) -> str:
        """A message that the files ``wrong`` are damaged."""
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        return (
            f"{self.name} is damaged: {', '.join(wrong[:5])}{more} in {self.path} is not what was "
            f"written (size or SHA-256 differ from {MANIFEST})."
        )


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _literal(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


# --- manifests --------------------------------------------------------------------------------


def sealed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """``manifest`` with the hash of its content, so that a later change is detected."""
    content = {k: v for k, v in manifest.items() if k != SEAL}
    return {**content, SEAL: digest_of(content)}


def is_sealed(manifest: Mapping[str, Any]) -> bool:
    """Whether ``manifest`` is unchanged since :func:`sealed`; true as well if it has no hash."""
    try:
        return SEAL not in manifest or sealed(manifest)[SEAL] == manifest[SEAL]
    except ValueError:  # NaN or Infinity, which we never write
        return False


def open_artifact(folder: Path) -> Artifact:
    """The artifact in ``folder``.

    Raises :class:`DamagedArtifact` where its manifest is missing, unreadable or was changed.
    """
    path = folder / MANIFEST
    named = f"{folder.parent.name}/{folder.name}"
    try:
        seen = stamp(path)
        if seen is not None and seen == _OPENED.get(path, (None,))[0]:
            return Artifact(folder, _OPENED[path][1])
        began = time.time_ns()
        text = path.read_text(encoding="utf-8")
        manifest = json.loads(text)
    except FileNotFoundError:
        raise DamagedArtifact(f"{named} is not whole: {folder} has no {MANIFEST}") from None
    except PermissionError as error:
        raise UnreadableArtifact(named, error) from error
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedArtifact(f"{named} is damaged: {path} cannot be read ({error})") from None
    if not isinstance(manifest, dict) or not _sane(manifest):
        raise DamagedArtifact(f"{named} is damaged: {path} is no manifest of an artifact")
    unsealed = SEAL not in manifest and "trained" in manifest  # versions that wrote one wrote both
    if unsealed or not is_sealed(manifest):
        raise DamagedArtifact(f"{named} is damaged: {path} is not what was written")
    small = len(text) <= _SHORT and (path in _OPENED or len(_OPENED) < _KEPT)
    if small and seen is not None and began - max(seen[1:3]) > SETTLED * 1e9:
        _OPENED[path] = (seen, manifest)
    return Artifact(folder, manifest)


def _sane(manifest: Mapping[str, Any]) -> bool:
    """Whether its fields have their form, and none of its files lies outside of the artifact."""
    tables = all(
        isinstance(manifest.get(k, {}), dict) for k in ("files", "facts", "config", "needs")
    )
    if not tables:
        return False
    texts = all(isinstance(need, str) for need in manifest.get("needs", {}).values())
    files: dict[str, Any] = manifest.get("files", {})
    return texts and all(map(_inside, files)) and all(map(_measured, files.values()))


def _inside(name: str) -> bool:
    """Whether ``name`` can be a file below an artifact's folder."""
    try:
        named = b"\0" not in name.encode()
    except UnicodeEncodeError:
        return False
    return named and not name.startswith("/") and ".." not in name.split("/")


def _measured(file: Any) -> bool:
    """Whether size and hash of a file are given."""
    return (
        isinstance(file, dict)
        and isinstance(file.get("size"), int)
        and isinstance(file.get("sha256"), str)
    )


def check_path(path: Path) -> None:
    """Raise DamagedArtifact if ``path`` lies in an artifact and is not what was written.

    For paths that a user gives, which may lead into a store.
    """
    path = path.absolute()
    for folder in path.parents[:2]:
        if not (folder / MANIFEST).is_file() and not _IN_STORE.search(folder.name):
            continue
        try:
            artifact = open_artifact(folder)
        except DamagedArtifact:
            if _IN_STORE.search(folder.name):
                raise
            continue  # another program's manifest.json
        name = _literal(str(path.relative_to(folder)))
        artifact.check(name, f"{name}/*")


def folders(kind: Path, digits: str = "") -> Iterator[Path]:
    """Folders of finished artifacts of a kind, sorted by name; unfinished ones are left out.

    ``digits``: only those whose key starts so. A folder may turn out to be damaged.
    """
    for path in sorted(kind.glob(f"*-{digits}" if digits else "*")):
        if not path.name.startswith(".") and path.is_dir():
            yield path


def find_recorded(store: Path, recorded: str) -> Path | None:
    """The folder of the artifact recorded as ``<kind>/<name>-<12 hex>``, found by its key alone.

    None if the store has none with a manifest, or if ``recorded`` is no such name; nothing outside
    ``store`` is read.
    """
    parts = [part for part in recorded.split("/") if part][-2:]
    if len(parts) < 2 or any(part.startswith(".") for part in parts):
        return None
    kind, name = parts
    found = [store / kind / name]
    if not (found[0] / MANIFEST).is_file() and (key := _KEY.search(name)):
        found = list(folders(store / kind, key[1]))
    return next((path for path in found if (path / MANIFEST).is_file()), None)
