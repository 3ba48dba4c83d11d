"""Atomic writing of files, and hashes of their content."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coincide.system.processes import parse_process, this_process

if TYPE_CHECKING:
    import numpy as np

TEMPORARY = ".tmp-"
"""Prefix of the names of unfinished files."""
_HOUR = 3600.0


def canonical(value: Any) -> str:
    """``value`` as JSON with sorted keys and no spaces.

    ValueError or TypeError for NaN and non-JSON.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def normalise_numbers(value: Any) -> Any:
    """``value`` (JSON) in which numbers that are equal are written alike: ``1.0`` is ``1``."""
    if isinstance(value, Mapping):
        return {key: normalise_numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [normalise_numbers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def as_name(text: str, longest: int = 100) -> str:
    """``text`` as a part of a file name that every file system, SLURM and wandb accept.

    ASCII letters and digits, ``.``, ``_`` and ``-``, at most ``longest`` characters. A text that is
    such a name already is returned as it is; otherwise a hash is added, so that different texts
    give different names.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", text).lstrip(".-")
    if plain == text and text and len(text) <= longest:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{plain[: longest - 9].rstrip('.-')}-{digest}".lstrip("-")


def digest_of(value: Any) -> str:
    """Hex digest of the SHA-256 of ``value`` as canonical JSON."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of the bytes of ``path``, hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def file_system_time(folder: Path) -> float:
    """The time now, in seconds, by the clock of the file system of ``folder``, which all nodes see
    alike; by this machine's where nothing can be written there.
    """
    probe = folder / f"{TEMPORARY}{this_process()}-{uuid.uuid4().hex[:8]}-clock"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with suppress(OSError):
            probe.unlink()


def write_atomic(path: Path, write: Callable[[Path], None], *, mode: int = 0o666) -> None:
    """Call ``write`` with a temporary file beside ``path``, fsync it and rename it to ``path``.

    ``mode``: permissions, less the process's umask; 0o600 is this user alone.
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


def remove_temporary(folder: Path) -> list[str]:
    """Remove temporary files that killed processes left in ``folder``; returns their names.

    Those of running processes are kept, and those of other machines for an hour.
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
    """Write ``value`` atomically as indented JSON with sorted keys.

    ``mode`` as in ``write_atomic``.
    """
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
    write_text(path, text, mode=mode)


def write_text(path: Path, text: str, *, mode: int = 0o666) -> None:
    """Write ``text`` atomically as UTF-8; ``mode`` as in ``write_atomic``."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8", newline="\n")

    write_atomic(path, write, mode=mode)


def write_list(path: Path, items: Iterable[str]) -> None:
    """Write ``items``, JSON each, atomically as a JSON list with a line for each."""

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", newline="\n") as handle:
            handle.write("[\n")
            for number, item in enumerate(items):
                handle.write((",\n" if number else "") + item)
            handle.write("\n]\n")

    write_atomic(path, write)


def items_of_list(path: Path, count: int, places: Sequence[int]) -> list[bytes] | None:
    """The items at ``places`` (ascending) of the ``count`` JSON objects that :func:`write_list`
    wrote, without parsing the others.

    None where it cannot be told where each begins: another file, or an item with a line of its own
    that looks like a beginning.
    """
    import mmap

    with path.open("rb") as handle:
        if not path.stat().st_size:
            return None
        with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as text:
            begins = [text.find(b"[\n{") + 2]
            while (at := text.find(b",\n{", begins[-1])) >= 0:
                begins.append(at + 2)
            if begins[0] != 2 or len(begins) != count or text[-4:] != b"}\n]\n":
                return None
            ends = [*(at - 2 for at in begins[1:]), len(text) - 3]
            return [text[begins[place] : ends[place]] for place in places]


def write_array(path: Path, array: np.ndarray) -> None:
    """Write ``array`` atomically as ``.npy``."""
    import numpy as np

    def write(temporary: Path) -> None:
        with temporary.open("wb") as handle:
            np.save(handle, array, allow_pickle=False)

    write_atomic(path, write)


def read_cache(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``, which only saves work; empty where it is missing or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def lines(path: Path) -> list[str]:
    """The lines of a file that is appended to; one that a kill cut off is left out."""
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    return [line for line in whole.split("\n") if line]


def fsync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def ours_alone(path: Path) -> bool:
    """Whether ``path`` is owned by this user or root and nobody else may write to it."""
    found = path.stat()
    return found.st_uid in (os.geteuid(), 0) and not found.st_mode & 0o022
