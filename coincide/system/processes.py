"""Child processes that end with their parent, and whether another process is still running."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from filelock import FileLock, Timeout

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What ``flock`` raises on file systems that cannot lock."""


def available_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class ProcessLock(FileLock):
    """A file lock with an object of its own for every call.

    Once lmms-eval 0.7.3 has evaluated, ``filelock.FileLock(path)`` returns one shared object per
    path, which forked children cannot use and which is never freed. Subclasses are not affected.
    """


@contextmanager
def locked(path: Path, timeout: float = -1, waiting: str = "") -> Iterator[bool]:
    """Hold the lock file ``path``; yields False, at once, if its file system has no locks.

    ``waiting`` is printed if another process holds it; it is waited for up to ``timeout`` seconds,
    -1: for ever. Raises filelock.Timeout, and OSError if ``path`` cannot be written.
    """
    # without locks filelock would take the mere existence of the file for one: a file that a killed
    # process left, or that was copied with its folder, would be waited for in vain
    lock = ProcessLock(path, fallback_to_soft=False)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if waiting:
                print(waiting, flush=True)
            lock.acquire(timeout=timeout)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        yield False
        return
    try:
        yield True
    finally:
        with suppress(OSError):  # the folder may have been removed meanwhile
            lock.release()


def has_locks(folder: Path) -> bool:
    """Whether files in ``folder``, which is made, can be locked; on some network file systems not.

    Raises OSError where the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".probe-{os.getpid()}"
    try:
        with locked(probe, timeout=0) as held:
            return held
    finally:
        probe.unlink(missing_ok=True)


def die_with_parent() -> None:
    """On Linux: let the kernel kill this process when its parent ends, so that no orphan goes on
    writing.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def become_subreaper(wanted: bool) -> None:
    """On Linux: whether orphaned descendants become children of this process."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, int(wanted), 0, 0, 0)


def preexec_die_with_parent() -> Callable[[], None]:
    """A function for ``preexec_fn``: the child is killed when this process ends.

    Also if this process ends before the child could tell the kernel.
    """
    return partial(_die_with, os.getpid())


def _die_with(parent: int) -> None:
    die_with_parent()
    if os.getppid() != parent:
        os._exit(1)


@dataclass(frozen=True)
class ProcessIdentity:
    """A process, identified across machines and restarts.

    ``str()`` of it can be part of a file name.
    """

    host: str
    """Host name without dashes."""
    place: str
    """8 hexadecimal digits for the boot and the process namespace in which ``pid`` is valid."""
    pid: int
    started: int
    """Start time in clock ticks after boot; tells it from a later process with the same number."""

    def __str__(self) -> str:
        return f"{self.host}-{self.place}-{self.pid}-{self.started}"

    @property
    def here(self) -> bool:
        """Whether it runs where this process can see it: same boot, same process namespace."""
        return self.place == _place()

    @property
    def alive(self) -> bool | None:
        """Whether it is running; None for a process of another machine or container."""
        if not self.here:
            return None
        began = _started(self.pid)
        return _runs(self.pid) and (0 in (began, self.started) or began == self.started)


def this_process() -> ProcessIdentity:
    """The identity of the calling process."""
    host = re.sub(r"[^A-Za-z0-9._]", "_", socket.gethostname())[:24] or "unnamed"
    return ProcessIdentity(host, _place(), os.getpid(), _started(os.getpid()))


def parse_process(text: str) -> ProcessIdentity | None:
    """The process whose ``str()`` is ``text``; None for any other text."""
    parts = text.rsplit("-", 3)
    if len(parts) != 4 or not (parts[2].isdigit() and parts[3].isdigit()):
        return None
    return ProcessIdentity(parts[0], parts[1], int(parts[2]), int(parts[3]))


@cache
def _place() -> str:
    boot, namespace = "", ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    with suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - no path, "pid:[number]"
    return hashlib.sha256(f"{socket.gethostname()} {boot} {namespace}".encode()).hexdigest()[:8]


def _status(pid: int) -> list[str]:
    """Fields from the third on of ``/proc/<pid>/stat``.

    Empty without such a process or without /proc.
    """
    with suppress(OSError):
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return text.rpartition(")")[2].split()
    return []


def _started(pid: int) -> int:
    fields = _status(pid)
    return int(fields[19]) if len(fields) > 19 else 0


def _runs(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    if fields := _status(pid):
        return fields[0] not in ("Z", "X")
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
