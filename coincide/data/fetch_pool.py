"""Fetch a pool from the hub: its shards, or its annotations and the archives of its pictures.

What is there with the size that the hub states is left alone; a download that broke off goes on
where it was. Archives, also those cut into parts, are joined, unpacked and deleted, one at a time.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from coincide.data.download import disk_error, download
from coincide.data.hubfiles import HubFile, HubFiles, archive_of, is_there
from coincide.data.presence import WORK, gigabytes
from coincide.data.unpack import DamagedArchive, unpack
from coincide.protocols import Requirement
from coincide.schema import UserError


@runtime_checkable
class FromHub(Protocol):
    """A data source whose files are those of a dataset repository."""

    @property
    def name(self) -> str: ...
    @property
    def root(self) -> str:
        """The folder that they are fetched to."""
        ...

    @property
    def hub(self) -> HubFiles | None: ...


def fetch_pool(source: FromHub) -> bool:
    """Print what is there and what is needed, then fetch what is missing; returns whether its
    pictures come in archives.

    Raises :class:`UserError` if the hub does not answer, the disk is too small, or a file is not
    the one that the hub lists.
    """
    assert source.hub is not None
    hub, root = source.hub, Path(source.root)
    print(f"{source.name} in {root.absolute()}: {hub.repo} at {hub.revision}")
    try:
        files = hub.list_files(root)
        left = [file for file in files if not _done(root, file)]
        print(
            f"  {len(files):,} files, {gigabytes(sum(file.size for file in files))}; to fetch "
            f"{len(left):,}, {gigabytes(sum(file.size for file in left))}",
            flush=True,
        )
        _refuse_small(root, left)
        for file in (file for file in left if not archive_of(file.path)):
            download(hub.download_of(root, file), root / file.path)
        for name in dict.fromkeys(archive_of(file.path) for file in left):
            if name:
                _fetch_archive(hub, root, name, files)
    except OSError as error:
        raise disk_error(error, root) from error
    print(f"{source.name}: every file of {hub.repo} is here.")
    return any(archive_of(file.path) for file in files)


def _fetch_archive(hub: HubFiles, root: Path, name: str, files: Sequence[HubFile]) -> None:
    """Download the parts of an archive, join and unpack them below ``root``."""
    parts = sorted((f for f in files if archive_of(f.path) == name), key=_number)
    whole = root / WORK / name.replace("/", "_")
    fetched = [root / WORK / part.path.replace("/", "_") for part in parts]
    for part, path in zip(parts, fetched, strict=True):
        download(hub.download_of(root, part), path)
    if fetched != [whole]:
        with whole.open("wb") as out:
            for path in fetched:
                with path.open("rb") as piece:
                    shutil.copyfileobj(piece, out, 1 << 20)
    try:
        unpack(whole, root)
    except DamagedArchive:
        for path in {whole, *fetched}:
            path.unlink(missing_ok=True)
        raise
    _mark(root, name).touch()
    for path in {whole, *fetched}:
        path.unlink(missing_ok=True)


def _number(part: HubFile) -> tuple[int, str]:
    """The place of a part among the others: ``_part10`` comes after ``_part9``."""
    digits = part.path[len(part.path.rstrip("0123456789")) :]
    return int(digits or 0), part.path


def _mark(root: Path, name: str) -> Path:
    """The file that says that an archive was unpacked."""
    return root / WORK / f"{name.replace('/', '_')}.done"


def _done(root: Path, file: HubFile) -> bool:
    name = archive_of(file.path)
    return _mark(root, name).is_file() if name else is_there(root, file)


def _refuse_small(root: Path, left: Sequence[HubFile]) -> None:
    archives: dict[str, int] = {}
    for file in left:
        name = archive_of(file.path)
        archives[name] = archives.get(name, 0) + file.size
    archives.pop("", None)
    # an archive, the same joined from its parts, and its pictures
    needed = sum(file.size for file in left) + 2 * max(archives.values(), default=0)
    free = shutil.disk_usage(root).free
    if needed > free:
        raise UserError(
            f"{root.absolute()}: {gigabytes(needed)} are needed to download and unpack, "
            f"{gigabytes(free)} are free. Set paths.data to a folder on a larger disk. Nothing was "
            "downloaded."
        )


def pool_requirements(source: FromHub, absent: str, get: Callable[[], None]) -> list[Requirement]:
    """What of the pool is here, by looking only; ``absent``: why it cannot be read, or empty;
    ``get`` fetches it.
    """
    assert source.hub is not None
    hub, root = source.hub, Path(source.root)
    remedy = f"`python -m coincide.data.prepare data={source.name}` fetches it"
    files = hub.listed(root)
    if not files:
        there = absent or f"{root}; not compared with the hub's list of files"
        size = 0 if not absent else hub.about
        return [Requirement(f"pool {hub.repo}", not absent, there, remedy, size, get)]
    left = [file for file in files if not _done(root, file)]
    there = f"{root}, {len(files) - len(left):,} of {len(files):,} files"
    size = sum(file.size for file in left)
    found = [Requirement(f"pool {hub.repo}", not left, there, remedy, size, get)]
    if left:
        free = shutil.disk_usage(root).free
        said = f"{gigabytes(free)} free of {gigabytes(size)} to download"
        larger = "set paths.data to a folder on a larger disk"
        found.append(Requirement(f"disk space at {root}", free >= size, said, larger))
    return found
