"""A ledger as one compressed file that can be committed.

    python -m coincide.ledger.packed FOLDER FILE.jsonl.gz

One result per line, ordered by file name; gzip without a time stamp, so that the same results give
the same bytes. The report reads such a file like a folder.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from coincide.errors import UserError
from coincide.system.files import canonical, write_atomic
from coincide.terminal.inert import guard_terminal

ENDING = ".jsonl.gz"


def pack(folder: Path, file: Path) -> int:
    """Write the results below ``folder`` to ``file`` (``*.jsonl.gz``); returns their number.

    Raises UserError for another ending, and if there is no result.
    """
    if not file.name.endswith(ENDING):
        raise UserError(f"{file}: expected a name that ends in {ENDING}.")
    paths = sorted(folder.rglob("*.json"), key=lambda path: (path.name, str(path)))
    if not paths:
        raise UserError(f"{folder} holds no result (*.json); nothing was written.")
    lines = [canonical(json.loads(path.read_text(encoding="utf-8"))) for path in paths]
    content = gzip.compress("".join(f"{line}\n" for line in lines).encode(), 9, mtime=0)

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    write_atomic(file, write)
    return len(lines)


def unpack(file: Path) -> Iterator[tuple[str, str]]:
    """``(place, JSON text)`` of each result of a packed ledger; ``place`` is for error messages."""
    try:
        text = gzip.decompress(file.read_bytes()).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(
            f"{file} is no packed ledger: {error}. Restore the file, or remove it."
        ) from error
    for number, line in enumerate(text.splitlines(), 1):
        yield f"{file}:{number}", line


def main(words: Sequence[str]) -> int:
    """Pack a folder from the command line; returns the exit status."""
    if len(words) != 2:
        print("usage: python -m coincide.ledger.packed FOLDER FILE.jsonl.gz", file=sys.stderr)
        return 2
    try:
        print(f"{pack(Path(words[0]), Path(words[1]))} results in {words[1]}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    guard_terminal()
    sys.exit(main(sys.argv[1:]))
