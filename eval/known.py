"""What earlier evaluations of the same model hold: its answers, by what it was asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coincide.system.files import lines
from eval.likelihood import recorded
from eval.request import BenchmarkJob

KEY = "prompt"
"""In a sample's record: the digest of what the model was given; absent: not known."""


@dataclass(frozen=True)
class Known:
    """What is known of one benchmark's answers."""

    by_prompt: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    """Of other evaluations of the same model: digest -> document -> answer. In half precision the
    same prompt may have had other answers beside other prompts.
    """
    by_document: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    """Records of an earlier attempt at this evaluation."""
    likelihoods: Mapping[tuple[str, str], tuple[float, ...]] = field(default_factory=dict)
    """Digests of a prompt and of the candidates looked at -> the likelihood that was recorded."""

    def __bool__(self) -> bool:
        return bool(self.by_prompt or self.by_document)

    def answer(self, prompt: str, document: int) -> str:
        """The answer to the same prompt: that for the same document, else for the first with it."""
        found = self.by_prompt[prompt]
        return found.get(document, next(iter(found.values())))


def known(job: BenchmarkJob) -> Known:
    """What earlier attempts at the job, and the files ``job.known``, hold."""
    mine = Path(job.output) / "samples.jsonl"
    records = map(json.loads, lines(mine)) if mine.is_file() else ()
    there = [path for path in map(Path, job.known) if path.is_file()]
    others = [row for path in there for row in map(json.loads, lines(path))]
    by_prompt: dict[str, dict[int, str]] = {}
    for row in others:
        if KEY in row:
            by_prompt.setdefault(row[KEY], {}).setdefault(row["doc_id"], row["answer"])
    by_document = {row["doc_id"]: row for row in records}
    told = {
        (row[KEY], found[0]): found[1]
        for row in (*others, *by_document.values())
        if KEY in row and (found := recorded(row))
    }
    return Known(by_prompt, by_document, told)
