"""Archives from strangers: unpack only plain files, only below the folder, only what fits.

Refused before anything is written: absolute paths and ``..`` (zip-slip), links, devices, two
members of one name, encrypted members, and archives that swell beyond reason. What is there with
the right size is left alone, so a killed run resumes.
"""

from __future__ import annotations

import io
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from coincide.data.images import unsafe_reason
from coincide.progress import bar
from coincide.schema import UserError

SWELL = 100
"""An archive may unpack to this many times its size (pictures hardly swell at all)."""
SLACK = 10_000_000
"""Bytes that any archive may unpack to."""


class Damaged(UserError):
    """The archive's bytes are not those that were packed: fetch it again."""


@dataclass(frozen=True)
class Member:
    """A plain file of an archive."""

    name: str
    size: int
    open: Callable[[], IO[bytes]]


def unpack(archive: Path, into: Path) -> int:
    """Unpack a zip or tar ``archive`` below ``into``; return the number of files.

    Raises :class:`UserError` naming the first members that are refused, :class:`Damaged` for an
    archive that cannot be read to its end.
    """
    with ExitStack() as stack:
        try:
            members = _checked(archive, _members(archive, stack))
            _check_space(members, into)
            with bar(f"unpack {archive.name}", total=len(members), unit="file") as progress:
                for member in members:
                    _write(member, into / member.name)
                    progress.update(1)
        except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
            raise Damaged(f"{archive} is damaged: {error}.") from error
    return len(members)


def _members(archive: Path, stack: ExitStack) -> Iterator[Member | str]:
    """The plain files, and for every other member why it is refused. Folders are passed over."""
    if zipfile.is_zipfile(archive):
        yield from _zip_members(stack.enter_context(zipfile.ZipFile(archive)))
    elif tarfile.is_tarfile(archive):
        yield from _tar_members(stack.enter_context(tarfile.TarFile.open(archive)))
    else:
        raise Damaged(f"{archive} is neither a zip nor a tar archive, or was cut short.")


def _zip_members(packed: zipfile.ZipFile) -> Iterator[Member | str]:
    for info in packed.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        if info.is_dir():
            continue
        if kind not in (0, stat.S_IFREG):
            yield f"{info.filename!r}: a link or a device"
        elif info.flag_bits & 1:
            yield f"{info.filename!r}: encrypted"
        else:
            yield Member(info.filename, info.file_size, partial(packed.open, info))


def _tar_members(packed: tarfile.TarFile) -> Iterator[Member | str]:
    for info in packed:
        if info.isdir():
            continue
        if info.isreg() and not info.issparse():
            yield Member(info.name, info.size, partial(_open_tar, packed, info))
        else:
            yield f"{info.name!r}: a link or a device"
    plain = packed.fileobj
    if isinstance(plain, io.BufferedReader):  # compressed ones notice their own end
        plain.seek(packed.offset)
        if plain.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise Damaged("A tar archive ends without the mark of its end: it was cut short.")


def _open_tar(packed: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    found = packed.extractfile(info)
    assert found is not None  # it is a plain file
    return found


def _checked(archive: Path, members: Iterator[Member | str]) -> list[Member]:
    """All members, or a refusal that names the first ten bad ones."""
    limit = archive.stat().st_size * SWELL + SLACK
    total = 0
    sound: dict[str, Member] = {}
    refused = []
    for member in members:
        if isinstance(member, str):
            refused.append(member)
            continue
        why = unsafe_reason(member.name)
        name = os.path.normpath(member.name)
        if why or name in sound:
            refused.append(f"{member.name!r}: {why or 'twice in the archive'}")
        total += member.size
        if total > limit:
            raise UserError(
                f"{archive} is refused: it unpacks to more than {limit:,} bytes, {SWELL} times "
                "its own size (an archive bomb). Nothing was unpacked."
            )
        sound[name] = member
    if refused:
        first = "\n  ".join(refused[:10])
        raise UserError(
            f"{archive} is refused: {len(refused):,} of its members are not plain files below the "
            f"folder, the first:\n  {first}\nNothing was unpacked."
        )
    return list(sound.values())


def _check_space(members: list[Member], into: Path) -> None:
    into.mkdir(parents=True, exist_ok=True)
    needed = sum(member.size for member in members if not _is_there(member, into / member.name))
    free = shutil.disk_usage(into).free
    if needed > free:
        raise UserError(
            f"{into}: {needed:,} bytes are needed to unpack and {free:,} are free. Free some "
            "space, or set paths.data to a larger disk; what was downloaded is kept."
        )


def _is_there(member: Member, target: Path) -> bool:
    return target.is_file() and target.stat().st_size == member.size


def _write(member: Member, target: Path) -> None:
    """Write one member, under another name until it is whole."""
    if _is_there(member, target):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.part")
    with member.open() as source, partial.open("wb") as out:
        shutil.copyfileobj(source, out, 1 << 20)
    if partial.stat().st_size != member.size:
        raise Damaged(f"{member.name!r} is shorter in the archive than its header says.")
    os.replace(partial, target)
