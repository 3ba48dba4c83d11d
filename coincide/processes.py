"""Processes that do not outlive their parent, and how others can tell whether one still lives."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from filelock import FileLock

PR_SET_PDEATHSIG = 1


class ProcessLock(FileLock):
    """A file lock of its own for every call, whatever else the process has loaded.

    lmms-eval 0.7.3, once it has evaluated, makes ``filelock.FileLock(path)`` return one object per
    path for the life of the process: of it a forked child can make no use, and it is never freed.
    A subclass is not among the classes it changes.
    """


def die_with_parent() -> None:
    """On Linux, be killed when the parent is: no orphan goes on writing into its folder."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def dying_with_me() -> Callable[[], None]:
    """For ``preexec_fn``: the child dies with this process from its first instruction on.

    Also when this process is gone before the child has said so to the kernel.
    """
    parent = os.getpid()

    def prepare() -> None:
        die_with_parent()
        if os.getppid() != parent:
            os._exit(1)

    return prepare


@dataclass(frozen=True)
class ProcessIdentity:
    """A process as the name of a file can tell it."""

    host: str
    """Without dashes."""
    place: str
    """8 hex: the boot and the process namespace in which ``pid`` counts."""
    pid: int
    started: int
    """Clock ticks after boot; tells a process from a later one of the same number."""

    def __str__(self) -> str:
        return f"{self.host}-{self.place}-{self.pid}-{self.started}"

    @property
    def here(self) -> bool:
        """Whether this process can see if it lives."""
        return self.place == _place()

    @property
    def alive(self) -> bool | None:
        """Whether it still runs; None for a process of another machine or container."""
        if not self.here:
            return None
        began = _started(self.pid)
        return _runs(self.pid) and (0 in (began, self.started) or began == self.started)


def this_process() -> ProcessIdentity:
    """The calling process."""
    host = re.sub(r"[^A-Za-z0-9._]", "_", socket.gethostname())[:24] or "unnamed"
    return ProcessIdentity(host, _place(), os.getpid(), _started(os.getpid()))


def parse_process(text: str) -> ProcessIdentity | None:
    """The process that ``str(holder)`` names; None for anything else."""
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
    """Fields 3 and on of ``/proc/<pid>/stat``; none where there is no such process, or no /proc."""
    with suppress(OSError):
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return text.rpartition(")")[2].split()
    return []


def _started(pid: int) -> int:
    fields = _status(pid)
    return int(fields[19]) if len(fields) > 19 else 0


def _runs(pid: int) -> bool:
    """Whether the process is there, a zombie aside."""
    if fields := _status(pid):
        return fields[0] not in ("Z", "X")
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
