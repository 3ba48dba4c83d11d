"""Files that are written whole or not at all, and what tells their content."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from coincide.processes import parse_process, this_process

TEMPORARY = ".tmp-"
"""How the names of files begin that are not whole yet."""
_HOUR = 3600.0


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces; refuses NaN and what JSON cannot say."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def as_name(text: str, longest: int = 100) -> str:
    """``text`` as part of a file's name that every file system, SLURM and wandb take: letters and
    digits of ASCII, ``.``, ``_`` and ``-``, at most ``longest``.

    What is such a name already stays as it is; from others a hash keeps apart what was lost.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", text).lstrip(".-")
    if plain == text and text and len(text) <= longest:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{plain[: longest - 9].rstrip('.-')}-{digest}".lstrip("-")


def sha256_file(path: Path) -> str:
    """Hex digest of the bytes of ``path``."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_atomic(path: Path, write: Callable[[Path], None], *, mode: int = 0o666) -> None:
    """``write`` a temporary sibling of ``path``, fsync it, rename it: never a half file.

    ``mode``: who may read and write it, less the process's umask; 0o600: this user alone.
    """
    owner = f"{this_process()}-{uuid.uuid4().hex[:8]}"
    temporary = path.with_name(f"{TEMPORARY}{owner}-{path.name[-60:]}")
    try:
        if mode != 0o666:
            temporary.touch(mode)
        write(temporary)
        fsync(temporary)
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def sweep(folder: Path) -> list[str]:
    """Remove the temporary files that killed processes left in ``folder``; their names.

    Those of living processes stay, and for an hour those of other machines.
    """
    swept = []
    for path in folder.glob(f"{TEMPORARY}*"):
        with suppress(OSError):
            if not _in_use(path):
                path.unlink()
                swept.append(path.name)
    return swept


def _in_use(temporary: Path) -> bool:
    holder = parse_process("-".join(temporary.name.removeprefix(TEMPORARY).split("-")[:4]))
    if holder is None:
        return False
    if holder.alive is None:
        return time.time() - temporary.stat().st_mtime < _HOUR
    return holder.alive


def write_json(path: Path, value: Any, *, mode: int = 0o666) -> None:
    """Write ``value`` atomically as readable JSON with sorted keys; ``mode`` as write_atomic's."""
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
    write_text(path, text, mode=mode)


def write_text(path: Path, text: str, *, mode: int = 0o666) -> None:
    """Write ``text`` atomically, in UTF-8; ``mode`` as write_atomic's."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8", newline="\n")

    write_atomic(path, write, mode=mode)


def fsync(path: Path) -> None:
    """Make the content of a file, or the names in a folder, last over a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def ours_alone(path: Path) -> bool:
    """Whether this user, or root, owns the file ``path`` and no one else may write to it."""
    found = path.stat()
    return found.st_uid in (os.geteuid(), 0) and not found.st_mode & 0o022
