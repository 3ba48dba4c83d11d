"""The judge's replies, kept over attempts: a later one asks for the missing ones alone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from coincide.system.files import lines, write_text


class JudgeReplies:
    """The judge's usable replies by prompt, on disk: each process adds to a file of its own."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.file = folder / f"judge-{rank}.jsonl"
        self.known = _known(folder)

    def get(self, prompt: str) -> str | None:
        """What was replied to ``prompt`` before."""
        return self.known.get(_digest(prompt))

    def add(self, prompt: str, reply: str) -> None:
        """Keep a reply, also over a kill that follows."""
        self.known[_digest(prompt)] = reply
        with self.file.open("a", encoding="utf-8") as handle:
            handle.write(_line(_digest(prompt), reply))


def merge_replies(folder: Path) -> None:
    """The files of all processes as one, ``judge.jsonl``, however many there were."""
    known, parts = _known(folder), list(folder.glob("judge-*.jsonl"))
    if parts:
        text = "".join(_line(*item) for item in sorted(known.items()))
        write_text(folder / "judge.jsonl", text)
    for part in parts:
        part.unlink()


def _known(folder: Path) -> dict[str, str]:
    rows = [json.loads(line) for file in folder.glob("judge*.jsonl") for line in lines(file)]
    return {row["prompt"]: row["reply"] for row in rows}


def _line(digest: str, reply: str) -> str:
    record: dict[str, Any] = {"prompt": digest, "reply": reply}
    return json.dumps(record) + "\n"


def _digest(prompt: str) -> str:
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()
