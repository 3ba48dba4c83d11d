"""Answers of a benchmark that is being evaluated, kept as they come, so that a kill loses none.

Each rank appends to a file of its own beside the results. A line holds the document's index, the
digest of what the model was given, the answer, and a hash of these: a line that is cut or changed
counts as not answered.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from coincide.system.files import canonical, lines

NAME = "answers-{rank}.jsonl"
SEAL = "sha256"


@dataclass(frozen=True)
class JournaledAnswer:
    """One answer, and the digest of what was asked (``eval.kept.digest``); None: not known."""

    answer: str
    prompt: str | None
    likelihood: tuple[float, ...] | None = None
    """Nats per token of the right answer, and its margin; empty: the right answer is no short
    text; None: not recorded."""

    def fields(self) -> dict[str, object]:
        """Its fields for a line; one that says nothing is left out, as in lines of before."""
        found: dict[str, object] = {"answer": self.answer, "prompt": self.prompt}
        return found if self.likelihood is None else {**found, "likelihood": [*self.likelihood]}


def append(folder: Path, rank: int, found: Mapping[int, JournaledAnswer]) -> None:
    """Add answers, document -> answer, in one write."""
    text = "".join(
        json.dumps({**row, SEAL: _seal(row)}, ensure_ascii=False) + "\n"
        for row in ({"document": document, **kept.fields()} for document, kept in found.items())
    )
    path = folder / NAME.format(rank=rank)
    with path.open("ab") as handle:
        if handle.tell() and not _ends_a_line(path):
            handle.write(b"\n")
        handle.write(text.encode("utf-8"))


def read(folder: Path) -> dict[int, JournaledAnswer]:
    """Document -> answer, of all ranks, without lines that a kill cut or that were changed."""
    found: dict[int, JournaledAnswer] = {}
    for path in _files(folder):
        for line in lines(path):
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and row.pop(SEAL, None) == _seal(row):
                likely = row.get("likelihood")
                found[row["document"]] = JournaledAnswer(
                    row["answer"], row["prompt"], None if likely is None else tuple(likely)
                )
    return found


def discard(folder: Path) -> None:
    """Remove the files, once the answers stand in the results."""
    for path in _files(folder):
        path.unlink()


def _seal(row: Mapping[str, object]) -> str:
    return hashlib.sha256(canonical(row).encode()).hexdigest()[:16]


def _files(folder: Path) -> Sequence[Path]:
    return sorted(folder.glob(NAME.format(rank="*")))


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as handle:
        handle.seek(-1, 2)
        return handle.read(1) == b"\n"
