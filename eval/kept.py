"""Answers that a model gave before, which it is not asked for again.

An attempt whose judge failed leaves them, and so does every evaluation of the same model for
others that ask the same and score it otherwise. What the same is tells what the model is given: the
turns, the pixels of the pictures and how it is to generate, as a digest in a sample's ``prompt``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms

from coincide.system.files import canonical, lines, write_json
from eval.messages import turns_and_pictures
from eval.model import Decoding
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

    def __bool__(self) -> bool:
        return bool(self.by_prompt or self.by_document)

    def answer(self, prompt: str, document: int) -> str:
        """That to the same prompt: of the same document, else of the first that had it."""
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
    return Known(by_prompt, {row["doc_id"]: row for row in records})


class ReplayModel(lmms):
    """In the place of a model: its answers of before where it gave them all, else its answers."""

    is_simple = False

    def __init__(
        self,
        jobs: Sequence[BenchmarkJob],
        make_model: Callable[[], Any],
        *,
        number: int = 0,
        batch_size: int,
        device: str,
        answered: Callable[[int], None],
    ) -> None:
        """``make_model`` is called at once, unless there are answers for every job: then when one
        of them turns out to be missing.
        """
        super().__init__()
        self.batch_size, self.device, self.number = batch_size, device, number
        self.answered, self._make = answered, make_model
        self.known = {job.name: known(job) for job in jobs}
        self.outputs = {job.name: Path(job.output) for job in jobs}
        self.reused = 0
        """Answers that were not asked for again."""
        self._model = None if all(self.known.values()) else make_model()

    def clean(self) -> None:
        """Nothing: lmms-eval would delete the model after the first task."""

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """The answer to each request, all of one benchmark, in order."""
        if not requests:
            return []
        name = requests[0].args[4]
        prompts: dict[int, str] = {}
        found = self._before(requests, self.known[name], prompts)
        if found is None:
            if self._model is None:
                self._model = self._make()
            self._model.task_dict = self.task_dict
            found = self._model.generate_until([_noting(r, prompts) for r in requests])
        else:
            self.reused += len(found)
            self.answered(len(found))
        write_json(self.outputs[name] / f"prompts-{self.number}.json", prompts)
        return found

    def _before(
        self, requests: Sequence[Instance], old: Known, prompts: dict[int, str]
    ) -> list[str] | None:
        """All answers; None where one is missing: some anew beside others could differ by batch."""
        documents = [request.args[3] for request in requests]
        if documents and all(number in old.by_document for number in documents):
            records = {number: old.by_document[number] for number in documents}
            prompts |= {number: row[KEY] for number, row in records.items() if KEY in row}
            return [str(records[number]["answer"]) for number in documents]
        for request in requests if old.by_prompt else ():
            _, messages, settings, number, task, split = request.args
            asked = digest(messages(self.task_dict[task][split][number]), settings)
            if asked not in old.by_prompt:
                prompts.clear()
                return None
            prompts[number] = asked
        return [old.answer(prompts[number], number) for number in documents] if prompts else None

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise NotImplementedError

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise NotImplementedError


def digest(messages: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> str:
    """What the model is given, and how its answer is generated, as 16 hexadecimal digits."""
    turns, pictures = turns_and_pictures(messages)
    said = [[turn.role, turn.text] for turn in turns]
    found = hashlib.sha256(canonical([said, vars(Decoding.from_settings(settings))]).encode())
    for picture in pictures:
        found.update(f"{picture.size}".encode() + picture.tobytes())
    return found.hexdigest()[:16]


def _noting(request: Instance, prompts: dict[int, str]) -> Instance:
    """The request, whose messages leave their digest in ``prompts`` when the model reads them."""
    context, messages, settings, number, task, split = request.args

    def read(document: Any) -> Any:
        found = messages(document)
        prompts[number] = digest(found, settings)
        return found

    return replace(request, arguments=(context, read, settings, number, task, split))


def take_prompts(output: Path) -> dict[int, str]:
    """Document -> digest, as the ranks left it beside the samples; the files go."""
    found: dict[int, str] = {}
    for path in output.glob("prompts-*.json"):
        found |= {int(n): asked for n, asked in json.loads(path.read_text("utf-8")).items()}
        path.unlink()
    return found
