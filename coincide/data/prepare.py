"""``python -m coincide.data.prepare data=llava``: download and unpack a dataset; list lost images.

What exists is left alone; what was interrupted is resumed. If two processes prepare the same
dataset, the second waits. An archive is deleted once it is unpacked.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

from coincide.data.download import Download, disk_error, download, redact_url
from coincide.data.fetch_pool import FromHub, fetch_pool
from coincide.data.listing import missing_files
from coincide.data.presence import WORK, count_files, gigabytes, look_at_download, mark, space
from coincide.data.report import by_source
from coincide.data.shards import shards_of
from coincide.data.unpack import DamagedArchive, unpack
from coincide.protocols import Requirement
from coincide.schema import DataSource, UserError
from coincide.system.files import write_json
from coincide.system.processes import locked
from coincide.terminal.inert import guard_terminal
from coincide.terminal.program import hand_over

LOST = "lost_images.json"


@runtime_checkable
class Sharded(Protocol):
    """A data source whose annotations are the shards that it finds itself."""

    def files_here(self) -> Sequence[Path]: ...


@runtime_checkable
class Prepared(Protocol):
    """A data source with downloads."""

    @property
    def name(self) -> str: ...
    @property
    def annotations(self) -> str: ...
    @property
    def images(self) -> str: ...
    @property
    def root(self) -> str:
        """The folder of the downloads."""
        ...

    @property
    def downloads(self) -> Sequence[Download]: ...
    def images_by_source(self) -> Mapping[str, list[str]]:
        """Source -> image paths, under the source of the first row that names them."""
        ...


def prepare(source: DataSource) -> None:
    """Print what exists and what is needed, then download and unpack what is missing.

    Raises :class:`UserError` if the disk is too small or an address does not give its file.
    """
    if isinstance(source, FromHub) and source.hub:
        try:
            with _alone(Path(source.root)):
                unpacked = fetch_pool(source)
        except OSError as error:
            raise disk_error(error, Path(source.root)) from error
        if unpacked and isinstance(source, Prepared):
            report_lost(source)
        return
    if not isinstance(source, Prepared) or not source.downloads:
        print(f"data={source.name} names no downloads: there is nothing to fetch.")
        return
    root = Path(source.root)
    print(f"{source.name} in {root.absolute()}")
    for item in source.downloads:
        seen = look_at_download(root, item)
        where = "" if seen.whole else f"; from {redact_url(item.url)}"
        print(f"  {item.name:<12} {'there' if seen.whole else 'fetch':<6} {seen.found}{where}")
    _check_space(root, source.downloads)
    for item in source.downloads:
        fetch(root, item)
    report_lost(source)


def fetch(root: Path, item: Download) -> None:
    """Download ``item`` and unpack it below ``root``, unless it exists."""
    try:
        with _alone(root):
            if look_at_download(root, item).whole:
                return
            if item.holds:
                _fetch_archive(root, item)
            else:
                download(item, root / item.to)
    except OSError as error:
        raise disk_error(error, root) from error


def _fetch_archive(root: Path, item: Download) -> None:
    archive = root / WORK / f"{item.name}{Path(item.url.partition('?')[0]).suffix}"
    for last in (False, True):
        download(item, archive)
        mark(root, item, "unfinished").touch()
        try:
            unpack(archive, root / item.to)
            break
        except DamagedArchive as error:
            archive.unlink()
            if last:
                raise
            print(f"{error} Fetching it again.", flush=True)
    folder = root / item.holds
    if not folder.is_dir():
        raise UserError(
            f"{archive} was unpacked into {root / item.to}, but there is no folder {folder} now: "
            "its publisher changed the archive. Move the images there; the archive is kept."
        )
    mark(root, item, "done").write_text(str(count_files(folder)))
    mark(root, item, "unfinished").unlink()
    archive.unlink()


def requirements(source: Prepared) -> list[Requirement]:
    """Annotations, image folders and disk space of ``source``; with ``fetch`` if downloadable.

    A folder that lacks some of its images is not fatal: the policies of ``source`` decide.
    """
    root = Path(source.root)
    found = []
    annotations = Path(source.annotations)
    wanted = [i for i in source.downloads if i.holds or root / i.to == annotations]
    for item in wanted:
        seen = look_at_download(root, item)
        what = f"images {item.holds}" if item.holds else "annotations"
        get = partial(fetch, root, item)
        left = 0 if seen.whole else item.size
        found.append(
            Requirement(what, seen.whole, seen.found, _remedy(source), left, get, not seen.some)
        )
    brought = {r.name for r in found}
    own = [] if "annotations" in brought else ["annotations"]
    for what in own if wanted else [*own, "images"]:
        wrong = absent(source, what)
        there = wrong or str(getattr(source, what))
        found.append(Requirement(what, not wrong, there, f"set data.{what}"))
    if not all(r.met for r in found if r.fetch):
        needed, free = space(root, wanted)
        there = f"{gigabytes(free)} free of {gigabytes(needed)} needed to download and unpack"
        larger = "set paths.data to a folder on a larger disk"
        found.append(Requirement(f"disk space at {root}", free >= needed, there, larger))
    return found


def refuse_absent(source: Prepared) -> None:
    """Raise :class:`UserError` if annotations or image root do not exist."""
    for what in ("annotations", "images"):
        wrong = absent(source, what)
        if wrong:
            raise UserError(f"{wrong} {_remedy(source)}".rstrip())


def absent(source: Prepared, what: str) -> str:
    """Why ``annotations`` or ``images`` of ``source`` cannot be read; empty if they can."""
    path = Path(getattr(source, what))
    if what == "annotations" and path.is_dir():
        try:
            _ = source.files_here() if isinstance(source, Sharded) else shards_of(path)
        except UserError as error:
            return str(error)
        return ""
    there = path.is_file() if what == "annotations" else path.is_dir()
    kind = "file or folder of shards" if what == "annotations" else "folder (the image root)"
    return "" if there else f"data.{what}={str(path)!r}: no such {kind}."


def _remedy(source: Prepared) -> str:
    if not source.downloads and not (isinstance(source, FromHub) and source.hub):
        return ""
    return f"`python -m coincide.data.prepare data={source.name}` fetches it"


def report_lost(source: Prepared) -> None:
    """Print how many images are named but do not exist, and list them in ``lost_images.json``."""
    named = source.images_by_source()
    missing = missing_files(Path(source.images), [n for names in named.values() for n in names])
    lost = {
        where: sorted(missing.intersection(names))
        for where, names in sorted(named.items())
        if missing.intersection(names)
    }
    path = Path(source.root) / LOST
    total = sum(map(len, named.values()))
    if not lost:
        path.unlink(missing_ok=True)
        print(f"{source.name} is complete: {total:,} images.")
        return
    write_json(path, lost)
    counts = by_source({where: len(names) for where, names in lost.items()})
    print(
        f"{len(missing):,} of {total:,} images are named and not there ({counts}); listed in "
        f"{path}. Their sources lost them. data.on_missing_image says what becomes of their rows: "
        "error stops, drop leaves them out, blank puts a blank picture in their place."
    )


def _check_space(root: Path, items: Sequence[Download]) -> None:
    left = gigabytes(sum(item.size for item in items if not look_at_download(root, item).whole))
    needed, free = space(root, items)
    print(f"  {left} to download; {gigabytes(needed)} needed at most, {gigabytes(free)} free")
    if needed > free:
        raise UserError(
            f"{root.absolute()}: {gigabytes(needed)} are needed to download and unpack, "
            f"{gigabytes(free)} are free. Set paths.data to a folder on a larger disk. Nothing was "
            "downloaded."
        )


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Hold the folder's lock; waits while another process prepares it."""
    (root / WORK).mkdir(parents=True, exist_ok=True)
    waiting = f"waiting for another process that prepares {root}"
    with locked(root / WORK / "lock", waiting=waiting) as held:
        if not held:
            print(f"{root} has no file locks: prepare it from one process at a time", flush=True)
        yield


def main() -> int:
    """Pass the words on to ``run.py``, which prepares the dataset."""
    return hand_over("prepare", sys.argv[1:])


if __name__ == "__main__":
    guard_terminal()
    sys.exit(main())
