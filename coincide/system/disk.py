"""Errors of a disk that is full or cannot be written, with place, size and remedy.

Libraries hide these errors: numpy raises an OSError without a number, torch a RuntimeError,
``datasets`` an error of its own around the real one.
"""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from coincide.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
_SAYS_FULL = re.compile(
    r"No space left on device|Disk quota exceeded|os error 28\b|os error 122\b"
    r"|\d+ requested and \d+ written|PytorchStreamWriter failed writing|file write failed",
    re.IGNORECASE,
)
_NUMPY = re.compile(r"(\d+) requested and (\d+) written")
NEARLY = 2**20
"""If fewer bytes than this are free, a process that ended without a message counts as out of
disk."""


class DiskError(UserError):
    """The disk is full, or cannot be written."""


def is_full(error: BaseException) -> bool:
    """Whether ``error``, or an error that caused it, means that the disk or quota is full."""
    return any(
        getattr(each, "errno", None) in FULL or _SAYS_FULL.search(str(each))
        for each in _chain(error)
        if isinstance(each, Exception)
    )


def is_read_only(error: BaseException) -> bool:
    """Whether ``error``, or an error that caused it, means that writing is not permitted."""
    return any(isinstance(each, OSError) and each.errno in READ_ONLY for each in _chain(error))


def free_bytes(place: Path) -> int:
    """Free bytes on the disk of ``place``, or of its nearest parent that exists."""
    place = place.absolute()
    there = next(path for path in (place, *place.parents) if path.exists())
    return shutil.disk_usage(there).free


def size_text(size: float) -> str:
    """``size`` bytes as text: ``27.3 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def as_disk_error(
    error: BaseException, place: Path, what: str, remedy: str, *, needed: int | None = None
) -> BaseException:
    """``error`` as a :class:`DiskError` if the disk of ``place`` is its cause; else ``error``
    itself.

    ``what`` names what was being written, ``remedy`` says where else it could go, ``needed`` is its
    size in bytes.
    """
    if isinstance(error, UserError):
        return error
    if is_full(error):
        return disk_full(place, what, remedy, needed=needed or _requested(error), why=_brief(error))
    if is_read_only(error):
        return DiskError(
            f"{place} cannot be written ({_first(error)}) while writing {what}. {remedy}"
        )
    return error


def disk_full(
    place: Path, what: str, remedy: str, *, needed: int | None = None, why: str = ""
) -> DiskError:
    """The error for a disk that has no room for ``what``.

    ``why`` is the message of the failed write. Other arguments as for :func:`as_disk_error`.
    """
    wanted = f", at least {needed:,} needed" if needed else ""
    said = f" ({why})" if why else ""
    return DiskError(
        f"{place} is full while writing {what}: {free_bytes(place):,} bytes free{wanted}{said}. "
        f"Free some space, or {remedy[0].lower()}{remedy[1:]} What is done is kept; the same "
        "command goes on from it."
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """``error`` and the errors that it was raised from or while handling."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting += [each.__cause__, each.__context__]


def _brief(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    line = text.splitlines()[-1]
    return line if len(line) <= 200 else f"{line[:200]} ..."


def _first(error: BaseException) -> BaseException:
    return next(e for e in _chain(error) if isinstance(e, OSError) and e.errno in READ_ONLY)


def _requested(error: BaseException) -> int | None:
    """Bytes that numpy failed to write. Its messages count items, which need not be bytes."""
    found = (_NUMPY.search(str(each)) for each in _chain(error))
    return next((int(m[1]) for m in found if m), None)
