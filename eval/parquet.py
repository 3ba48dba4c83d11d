"""Whether a parquet file is complete: by its size, its first and last bytes, and its footer."""

from __future__ import annotations

from functools import cache
from pathlib import Path

MAGIC = b"PAR1"
"""The first and the last four bytes of a parquet file."""
POINTER = b"version https://git-lfs"


def fault(path: Path) -> str:
    """What is wrong with the file, and what to do; empty if its footer can be read."""
    status = path.stat()
    return _fault(path, status.st_size, status.st_mtime_ns)


def rows(path: Path) -> int:
    """Number of rows according to the footer of a complete file."""
    status = path.stat()
    return _rows(path, status.st_size, status.st_mtime_ns)


@cache
def _fault(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as handle:
        head = handle.read(len(POINTER))
        handle.seek(max(0, size - 8))
        tail = handle.read()
    if not size:
        return "is a file of zero bytes: delete it and fetch it again"
    if head.startswith(POINTER):
        return f"is a git-lfs pointer of {size} bytes, not the data: run git lfs pull there"
    if not head.startswith(MAGIC):
        return f"is no parquet file (it begins with {head[:8]!r}): delete it and fetch it again"
    footer = int.from_bytes(tail[:4], "little")
    if not tail.endswith(MAGIC) or footer > size - 12:
        return f"is cut off after {size:,} bytes (no footer): delete it and fetch it again"
    try:
        _rows(path, size, changed)
    except (OSError, ValueError) as error:
        return f"has a footer that cannot be read ({error}): delete it and fetch it again"
    return ""


@cache
def _rows(path: Path, size: int, changed: int) -> int:
    import pyarrow.parquet as pq

    return int(pq.read_metadata(path).num_rows)
