"""Folders in which artifacts are built; each belongs to one living process.

The first attempt to build a key works in ``.partial-<12 hex>``. An attempt holds a file that names
its process and is touched while the process runs. The folder of a dead process is taken over, with
its files, by renaming that file, which only one of several processes can do. So two processes never
write into one folder, with or without file locks; locks only make waiting cheap.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from coincide.system.files import file_system_time
from coincide.system.processes import ProcessIdentity, parse_process, this_process

SUMS = ".sums"
"""Folder of an attempt with the hashes of its finished files, for a later attempt that resumes
it."""
LEASE = 60.0
"""Seconds without a touch after which a process on another machine counts as dead."""
_PARTIAL, _HIDDEN, _OWNER, LOG = ".partial-", ".claimed-", ".owner-", ".attempts"


@dataclass(frozen=True)
class Busy:
    """Another process is building it, or may be."""

    folder: Path
    holder: ProcessIdentity
    silent: float
    """Seconds since that process last touched its file."""

    @property
    def waiting(self) -> str:
        """A message that names the process, and how long it is waited for."""
        if self.holder.alive:
            return f"waiting for process {self.holder.pid} on this machine, which builds it"
        return (
            f"waiting for process {self.holder.pid} on {self.holder.host}, which builds it; should "
            f"it stay silent for {LEASE:.0f} s, it is taken for dead"
        )


def folder_of(kind: Path, digits: str) -> Path:
    """The folder in which the artifact is being built, or in which its build will be resumed."""
    found = _attempts(kind, digits)
    return found[0] if found else kind / f"{_PARTIAL}{digits}"


def take(kind: Path, digits: str) -> Path | Busy:
    """A folder for this process to build in: that of a dead process, or a new one.

    :class:`Busy` if another process is at it. ``kind`` is the folder of the artifact's kind,
    ``digits`` the start of its key.
    """
    kind.mkdir(parents=True, exist_ok=True)
    _put_back(kind, digits)
    for folder in _attempts(kind, digits):
        taken = _take_over(folder, digits)
        if taken is not None:
            return taken
    return _create(kind, digits)


def release(folder: Path) -> None:
    """Give up ``folder`` without finishing; another attempt can resume it."""
    mine = folder / f"{_OWNER}{this_process()}"
    _beating.discard(mine)
    with suppress(OSError):
        mine.unlink()


def is_mine(folder: Path) -> bool:
    """Whether this process still holds ``folder``; another may have taken it for dead."""
    return (folder / f"{_OWNER}{this_process()}").exists()


def remove_dead(kind: Path, digits: str) -> None:
    """Remove folders of dead processes that tried to build an artifact which now exists."""
    _put_back(kind, digits)
    for folder in _attempts(kind, digits):
        if isinstance(mine := _take_over(folder, digits), Path):
            release(mine)
            shutil.rmtree(mine, ignore_errors=True)


def settle(folder: Path) -> None:
    """Remove the owner's file: ``folder`` is a finished artifact now."""
    for path in folder.glob(f"{_OWNER}*"):
        _beating.discard(path)
        with suppress(OSError):
            path.unlink()


def is_private(name: str) -> bool:
    """Whether ``name`` (a path within the attempt) belongs to the attempt and not to the
    artifact.
    """
    return name == LOG or is_owner(name) or name.startswith(f"{SUMS}/")


def is_owner(name: str) -> bool:
    """Whether ``name`` is the file that names the attempt's process."""
    return name.startswith(_OWNER)


def _attempts(kind: Path, digits: str) -> list[Path]:
    """Folders of attempts: first the ``.partial-<12 hex>`` one, then the others, the latest
    first.
    """
    found = [path for path in kind.glob(f"{_PARTIAL}{digits}*") if path.is_dir()]

    def age(path: Path) -> float:
        with suppress(OSError):
            return -path.stat().st_mtime
        return 0.0

    return sorted(found, key=lambda path: (path.name != f"{_PARTIAL}{digits}", age(path)))


def _beside(kind: Path, digits: str) -> Path:
    return kind / f"{_PARTIAL}{digits}-{uuid.uuid4().hex[:8]}"


def _hidden(kind: Path, digits: str) -> Path:
    """A folder name that no other process uses while this one runs."""
    return kind / f"{_HIDDEN}{digits}-{this_process()}-{uuid.uuid4().hex[:8]}"


def _put_back(kind: Path, digits: str) -> None:
    """Restore folders that were hidden by processes which died while claiming them."""
    for path in kind.glob(f"{_HIDDEN}{digits}-*"):
        holder = parse_process(path.name.removeprefix(f"{_HIDDEN}{digits}-").rsplit("-", 1)[0])
        if holder is not None and holder.alive is False:
            with suppress(OSError):  # another was quicker
                os.rename(path, _beside(kind, digits))


def _create(kind: Path, digits: str) -> Path | Busy:
    """A new folder for this process; :class:`Busy` if another process was quicker."""
    fresh, first = _hidden(kind, digits), kind / f"{_PARTIAL}{digits}"
    fresh.mkdir()
    _own(fresh)
    try:
        os.rename(fresh, first)
    except OSError as error:
        shutil.rmtree(fresh, ignore_errors=True)
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return take(kind, digits)
    return _mine(first)


def _take_over(folder: Path, digits: str) -> Path | Busy | None:
    """``folder`` if its process is dead; :class:`Busy` if it lives; None if another was quicker."""
    try:
        owners = sorted(folder.glob(f"{_OWNER}*"))
        for path in owners:
            holder = parse_process(path.name.removeprefix(_OWNER))
            silent = file_system_time(folder) - path.stat().st_mtime
            if holder is not None and holder.alive is not False:
                if holder.alive or silent <= LEASE:
                    return Busy(folder, holder, silent)
                beside = _beside(folder.parent, digits)  # it may wake up: not in its folder
                return _claim(folder, digits, owners, beside)
        if not owners:
            return _claim(folder, digits, owners, folder)
        os.rename(owners[0], folder / f"{_OWNER}{this_process()}")
        for path in owners[1:]:
            path.unlink(missing_ok=True)
        return _mine(folder)
    except FileNotFoundError:
        return None


def _claim(folder: Path, digits: str, owners: Sequence[Path], to: Path) -> Path | None:
    """Claim ``folder`` by renaming it, which only one process can do, and continue the attempt in
    ``to``.

    None if its owners are no longer ``owners``.
    """
    hidden = _hidden(folder.parent, digits)
    os.rename(folder, hidden)
    found = sorted(hidden.glob(f"{_OWNER}*"))
    if [path.name for path in found] != [path.name for path in owners]:
        os.rename(hidden, folder)
        return None
    for path in found:
        path.unlink(missing_ok=True)
    _own(hidden)
    os.rename(hidden, to)
    return _mine(to)


def _own(folder: Path) -> None:
    (folder / f"{_OWNER}{this_process()}").touch()


# --- showing that this process lives ----------------------------------------------------------

_beating: set[Path] = set()
_beater: list[tuple[int, threading.Thread]] = []
"""The thread that touches the files, and the id of the process that started it: threads do not
survive a fork."""


def _mine(folder: Path) -> Path:
    owner = folder / f"{_OWNER}{this_process()}"
    os.utime(owner)
    if not _beater or _beater[0][0] != os.getpid():
        _beating.clear()
    _beating.add(owner)
    if not _beater or _beater[0][0] != os.getpid() or not _beater[0][1].is_alive():
        thread = threading.Thread(target=_beat, name="attempts", daemon=True)
        _beater[:] = [(os.getpid(), thread)]
        thread.start()
    return folder


def _beat() -> None:
    while True:
        time.sleep(LEASE / 6)
        for path in list(_beating):
            with suppress(OSError):
                os.utime(path)
