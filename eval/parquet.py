"""Whether a parquet file is complete: by its size, its first and last bytes, and its footer.

What is told without reading the data themselves.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

MAGIC = b"PAR1"
"""The first and the last four bytes of a parquet file."""
POINTER = b"version https://git-lfs"


def footer_fault(path: Path) -> str:
    """What is wrong with the file, and what to do; empty if its footer can be read."""
    status = path.stat()
    return _fault(path, status.st_size, status.st_mtime_ns)


def rows(path: Path) -> int:
    """Number of rows according to the footer of a complete file."""
    status = path.stat()
    return _rows(path, status.st_size, status.st_mtime_ns)


def columns(path: Path) -> list[str]:
    """Names of the columns of a complete file."""
    import pyarrow.parquet as pq

    return list(pq.read_schema(path).names)


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
        end = _end_of_data(path)
    except (OSError, ValueError) as error:
        return f"has a footer that cannot be read ({error}): delete it and fetch it again"
    if end > size - 8 - footer:
        return f"lacks bytes: its data end at {end:,} of {size:,}; delete it and fetch it again"
    return ""


def _end_of_data(path: Path) -> int:
    """Where the last row group ends, in bytes, by the footer."""
    import pyarrow.parquet as pq

    metadata = pq.read_metadata(path)
    if not metadata.num_row_groups:
        return 0
    group = metadata.row_group(metadata.num_row_groups - 1)
    columns = [group.column(i) for i in range(group.num_columns)]
    starts = [c.dictionary_page_offset or c.data_page_offset for c in columns]
    return max(
        (start + c.total_compressed_size for start, c in zip(starts, columns, strict=True)),
        default=0,
    )


@cache
def _rows(path: Path, size: int, changed: int) -> int:
    import pyarrow.parquet as pq

    return int(pq.read_metadata(path).num_rows)
