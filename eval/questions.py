"""The questions of an evaluation, by their pictures, in chunks that one rank answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from eval.decoding import Decoding
from eval.likelihood import Candidates, short_answer
from eval.request import BenchmarkJob
from eval.rules import RULES
from eval.units import picture_keys, unit_names

CHUNK = 128
"""Questions of a chunk, unless one picture has more."""


@dataclass(frozen=True)
class AskedQuestion:
    """A document of a benchmark."""

    benchmark: str
    document: int
    decoding: Decoding
    read: Callable[[], Sequence[Mapping[str, Any]]]
    """Gives lmms-eval's chat messages."""


class Questions:
    """The questions of all benchmarks of a process.

    ``mixed``: those of several benchmarks about one picture are answered together. In half
    precision, where an answer may depend on what runs beside it, they are not: a score must not
    depend on which other benchmarks are measured.
    """

    def __init__(
        self, jobs: Sequence[BenchmarkJob], tasks: Mapping[str, Any], *, mixed: bool
    ) -> None:
        self.mixed = mixed
        self._by_benchmark: dict[str, list[list[AskedQuestion]]] = {}
        found: dict[str, list[AskedQuestion]] = {}
        for job in jobs:
            alone: dict[str, list[AskedQuestion]] = {}
            own = found if mixed else alone
            mine: dict[str, list[AskedQuestion]] = {}
            for picture, question in _of(job, tasks[job.name]):
                mine[picture] = own.setdefault(picture, [])
                mine[picture].append(question)
            self._by_benchmark[job.name] = list(mine.values())

    def chunks(self, benchmark: str) -> Iterator[list[AskedQuestion]]:
        """The benchmark's questions, and others about the same pictures; those of one picture are
        in one chunk.
        """
        held: list[AskedQuestion] = []
        for group in self._by_benchmark[benchmark]:
            if held and len(held) + len(group) > CHUNK:
                yield held
                held = []
            held = [*held, *group]
        if held:
            yield held


def _of(job: BenchmarkJob, task: Any) -> Iterator[tuple[str, AskedQuestion]]:
    """The key of its picture, and the question, of every document of ``task``."""
    split = task.config.test_split or task.config.validation_split
    documents = task.dataset[split]
    decoding = Decoding.from_settings(task.config.generation_kwargs)

    def reader(number: int) -> Callable[[], Sequence[Mapping[str, Any]]]:
        return lambda: task.doc_to_messages(documents[number])

    named = picture_keys(documents, job.unit)
    keys = [found or [f"{job.name} {number}"] for number, found in enumerate(named)]
    place = f"{job.task}\0" if job.unit in getattr(documents, "column_names", ()) else ""
    for number, name in enumerate(unit_names(keys)):
        yield place + name, AskedQuestion(job.name, number, decoding, reader(number))


def candidates_of(
    jobs: Sequence[BenchmarkJob], tasks: Mapping[str, Any]
) -> Callable[[str, int], Candidates | None]:
    """A function: benchmark and document -> the right answer and its alternatives, by the rule of
    the benchmark's task; None where it is no short text.
    """
    rules = {job.name: RULES.get(job.task) for job in jobs}

    def candidates(benchmark: str, document: int) -> Candidates | None:
        task, rule = tasks[benchmark], rules[benchmark]
        content = task.eval_docs_no_media[document]
        if rule is None:
            return short_answer(task.doc_to_target(content))
        return rule.right(content, partial(task.doc_to_target, content))

    return candidates
