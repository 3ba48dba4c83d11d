"""Unpack archives from untrusted sources: only plain files, only below the folder, only what fits.

The whole archive is refused, before anything is written, for: absolute paths and ``..`` (zip-slip),
links, devices, encrypted members, archives that expand beyond reason; two members that are the same
file on some disk (equal names, or names that differ only in case or Unicode normalisation), or a
file and a folder of one name; names with control characters, too long for a disk, or like our own
temporary files; and members that would be written through a link, or over a folder, in the target.
Existing files of the right size are kept, so a killed run resumes.
"""

from __future__ import annotations

import io
import os
import shutil
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from coincide.data.images import unsafe_reason
from coincide.data.presence import WORK
from coincide.schema import UserError
from coincide.terminal.inert import ACTING
from coincide.terminal.progress import bar

SWELL = 100
"""An archive may expand to this many times its size (pictures hardly expand at all)."""
SLACK = 10_000_000
"""Bytes that any archive may expand to."""
LONGEST = 240
"""Bytes of a name; disks allow 255, and unfinished files have longer names."""
LONGEST_PATH = 4000
"""Bytes of a whole path; Linux allows 4,095."""


class DamagedArchive(UserError):
    """The archive's bytes are not as packed; it must be downloaded again."""


@dataclass(frozen=True)
class ArchiveMember:
    """A plain file of an archive, or a folder."""

    name: str
    size: int = 0
    open: Callable[[], IO[bytes]] | None = None
    """Opens the file for reading; None: a folder."""


def unpack(archive: Path, into: Path) -> int:
    """Unpack the zip or tar ``archive`` below ``into``; returns the number of files.

    Raises :class:`UserError` naming the first members that are refused, and :class:`DamagedArchive`
    for an archive that cannot be read to its end.
    """
    with ExitStack() as stack:
        try:
            members = _checked(archive, _members(archive, stack), into)
            _check_space(members, into)
            with bar(f"unpack {archive.name}", total=len(members), unit="file") as progress:
                for member in members:
                    _write(member, into / member.name)
                    progress.update(1)
        except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
            raise DamagedArchive(f"{archive} is damaged: {error}.") from error
    return len(members)


def _members(archive: Path, stack: ExitStack) -> Iterator[ArchiveMember | str]:
    """The plain files and folders; for every other member the reason why it is refused, as text."""
    if zipfile.is_zipfile(archive):
        yield from _zip_members(stack.enter_context(zipfile.ZipFile(archive)))
    elif tarfile.is_tarfile(archive):
        yield from _tar_members(stack.enter_context(tarfile.TarFile.open(archive)))
    else:
        raise DamagedArchive(f"{archive} is neither a zip nor a tar archive, or was cut short.")


def _zip_members(packed: zipfile.ZipFile) -> Iterator[ArchiveMember | str]:
    for info in packed.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        if "\0" in info.orig_filename:  # zipfile cuts the name there
            yield f"{info.orig_filename!a}: control characters in the name"
        elif info.is_dir():
            yield ArchiveMember(info.filename)
        elif kind not in (0, stat.S_IFREG):
            yield f"{info.filename!a}: a link or a device"
        elif info.flag_bits & 1:
            yield f"{info.filename!a}: encrypted"
        else:
            yield ArchiveMember(info.filename, info.file_size, partial(packed.open, info))


def _tar_members(packed: tarfile.TarFile) -> Iterator[ArchiveMember | str]:
    for info in packed:
        if info.isdir():
            yield ArchiveMember(info.name)
        elif info.isreg() and not info.issparse():
            yield ArchiveMember(info.name, info.size, partial(_open_tar, packed, info))
        else:
            yield f"{info.name!a}: a link or a device"
    plain = packed.fileobj
    if isinstance(plain, io.BufferedReader):  # compressed ones notice their own end
        plain.seek(packed.offset)
        if plain.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise DamagedArchive(
                "A tar archive ends without the mark of its end: it was cut short."
            )


def _open_tar(packed: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    found = packed.extractfile(info)
    assert found is not None  # it is a plain file
    return found


def _checked(
    archive: Path, members: Iterator[ArchiveMember | str], into: Path
) -> list[ArchiveMember]:
    """All files; UserError naming the first ten bad members if there are any."""
    limit = archive.stat().st_size * SWELL + SLACK
    total = 0
    sound: list[ArchiveMember] = []
    refused: list[str] = []
    names = _Names(into)
    for member in members:
        if isinstance(member, str):
            refused.append(member)
            continue
        if why := names.refusal(member):
            refused.append(f"{member.name!a}: {why}")
        elif member.open is not None:
            sound.append(member)
        total += member.size
        if total > limit:
            raise UserError(
                f"{archive} is refused: it unpacks to more than {limit:,} bytes, {SWELL} times "
                "its own size (an archive bomb). Nothing was unpacked."
            )
    refused += [f"{name!a}: {why}" for name, why in names.clashes()]
    if refused:
        first = "\n  ".join(refused[:10])
        raise UserError(
            f"{archive} is refused: {len(refused):,} of its members are not plain files below the "
            f"folder, the first:\n  {first}\nNothing was unpacked."
        )
    return sound


class _Names:
    """Checks the names of an archive against each other and against the target folder."""

    def __init__(self, into: Path) -> None:
        self.into = into
        self.files: dict[str, str] = {}
        """What a disk without case or with one Unicode form takes a file for -> its name."""
        self.folders: dict[str, str] = {}
        self.sound: set[str] = set()
        """Folders of the target that no link leads away from."""

    def refusal(self, member: ArchiveMember) -> str:
        """Why ``member`` cannot be unpacked beside the earlier ones; empty if it can."""
        if why := _bad_name(member):
            return why
        name = os.path.normpath(member.name)
        if len(os.fsencode(self.into.absolute() / name)) > LONGEST_PATH:
            return f"a path of more than {LONGEST_PATH:,} bytes"
        parents = [str(parent) for parent in PurePosixPath(name).parents if parent.name]
        folders = parents if member.open else [*parents, name]
        for folder in folders if name != "." else []:
            if (before := self.folders.setdefault(_folded(folder), folder)) != folder:
                return _same(before)
        if member.open is None:
            return ""
        if (known := self.files.get(_folded(name))) is not None:
            return "twice in the archive" if known == name else _same(known)
        self.files[_folded(name)] = name
        return self._blocked(name, parents)

    def clashes(self) -> Iterator[tuple[str, str]]:
        """Files whose name is also a folder's."""
        for folded in self.files.keys() & self.folders.keys():
            yield self.files[folded], f"a file, and {self.folders[folded]!a} a folder"

    def _blocked(self, name: str, parents: Iterable[str]) -> str:
        """What in the target folder is in the way of ``name``."""
        for parent in parents:
            if parent in self.sound:
                continue
            path = self.into / parent
            if path.is_symlink():
                return f"{path} is a link; unpacking would write where it leads"
            if path.exists() and not path.is_dir():
                return f"{path} is there and is no folder"
            self.sound.add(parent)
        target = self.into / name
        for path in (target, _partial(target)):
            if path.is_symlink():
                return f"{path} is a link; unpacking would write where it leads"
            if path.is_dir():
                return f"{path} is there and is a folder"
        return ""


def _bad_name(member: ArchiveMember) -> str:
    """Why the name alone is refused; empty if it is not."""
    folder = member.open is None
    name = member.name.rstrip("/") if folder else member.name
    if folder and os.path.normpath(name) == ".":
        return ""
    if ACTING.search(name):
        return "control characters in the name"
    if why := unsafe_reason(name):
        return why
    parts = PurePosixPath(name).parts
    if not parts:
        return "no name"
    if any(len(os.fsencode(part)) > LONGEST for part in parts):
        return f"a name of more than {LONGEST} bytes"
    partial = any(part.startswith(".") and part.endswith(".part") for part in parts)
    if partial or any(part.startswith(".tmp-") for part in parts) or WORK in parts:
        return "a name of our own temporary files"
    return ""


def _same(before: str) -> str:
    return f"{before!a} but for case or Unicode normalization"


def _folded(name: str) -> str:
    """``name`` as on disks that fold case or normalise Unicode."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _partial(target: Path) -> Path:
    """The name of ``target`` while it is unfinished."""
    return target.with_name(f".{target.name}.part")


def _check_space(members: list[ArchiveMember], into: Path) -> None:
    into.mkdir(parents=True, exist_ok=True)
    needed = sum(member.size for member in members if not _is_there(member, into / member.name))
    free = shutil.disk_usage(into).free
    if needed > free:
        raise UserError(
            f"{into}: {needed:,} bytes are needed to unpack and {free:,} are free. Free some "
            "space, or set paths.data to a larger disk; what was downloaded is kept."
        )


def _is_there(member: ArchiveMember, target: Path) -> bool:
    return target.is_file() and target.stat().st_size == member.size


def _write(member: ArchiveMember, target: Path) -> None:
    """Write one member, under another name until it is complete."""
    if _is_there(member, target):
        return
    assert member.open is not None  # folders come with their files
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(target)
    with member.open() as source, partial.open("wb") as out:
        shutil.copyfileobj(source, out, 1 << 20)
    if partial.stat().st_size != member.size:
        raise DamagedArchive(f"{member.name!a} is shorter in the archive than its header says.")
    os.replace(partial, target)
