"""What an attempt with a failing judge leaves: the model's answers and the judge's replies so far.

A later attempt asks the judge only for the missing replies, and does not run the model again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms

from coincide.system.files import write_atomic
from eval.request import BenchmarkJob

Answers = Mapping[str, Mapping[int, str]]
"""Benchmark -> document -> the model's answer."""


class ReplayModel(lmms):
    """Takes the place of the model: returns the answers that the model gave in an earlier
    attempt.
    """

    is_simple = False

    def __init__(
        self, answers: Answers, *, batch_size: int, device: str, answered: Callable[[int], None]
    ) -> None:
        super().__init__()
        self.answers, self.batch_size, self.device = answers, batch_size, device
        self.answered = answered

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """The recorded answer to each request, in order."""
        self.answered(len(requests))
        return [self.answers[r.args[4]][r.args[3]] for r in requests]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise NotImplementedError

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise NotImplementedError


def recorded_answers(jobs: Sequence[BenchmarkJob]) -> Answers | None:
    """The model's answers of an earlier attempt; None if any of the jobs has none yet."""
    files = {job.name: Path(job.output) / "samples.jsonl" for job in jobs if job.judged}
    if len(files) < len(jobs) or not all(file.is_file() for file in files.values()):
        return None
    rows = {name: list(map(json.loads, _lines(file))) for name, file in files.items()}
    return {name: {row["doc_id"]: row["answer"] for row in of} for name, of in rows.items()}


class JudgeReplies:
    """The judge's usable replies by prompt, on disk; each process appends to a file of its own."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.file = folder / f"judge-{rank}.jsonl"
        self.known = _known(folder)

    def get(self, prompt: str) -> str | None:
        """The reply to ``prompt``; None if there is none yet."""
        return self.known.get(_digest(prompt))

    def add(self, prompt: str, reply: str) -> None:
        """Store a reply; it survives a kill that follows."""
        self.known[_digest(prompt)] = reply
        with self.file.open("a", encoding="utf-8") as handle:
            handle.write(_line(_digest(prompt), reply))


def merge_replies(folder: Path) -> None:
    """Merge the files of all processes into ``judge.jsonl``."""
    known, parts = _known(folder), list(folder.glob("judge-*.jsonl"))
    if parts:
        text = "".join(_line(*item) for item in sorted(known.items()))
        write_atomic(folder / "judge.jsonl", lambda path: _write(path, text))
    for part in parts:
        part.unlink()


def _known(folder: Path) -> dict[str, str]:
    rows = [json.loads(line) for file in folder.glob("judge*.jsonl") for line in _lines(file)]
    return {row["prompt"]: row["reply"] for row in rows}


def _lines(file: Path) -> list[str]:
    """Complete lines of the file; a last line that a kill cut off is left out."""
    return file.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()


def _line(digest: str, reply: str) -> str:
    record: dict[str, Any] = {"prompt": digest, "reply": reply}
    return json.dumps(record) + "\n"


def _digest(prompt: str) -> str:
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
