"""Answers that a model gave before, which it is not asked for again.

An attempt whose judge failed leaves them, and so does every evaluation of the same model for
others that ask the same and score it otherwise. What the same is tells what the model is given: the
turns, the pixels of the pictures and how it is to generate, as a digest in a sample's ``prompt``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms

from coincide.models.encode import Encoded
from coincide.schema import Turn, UserError
from coincide.system.files import canonical
from eval.decoding import Decoding
from eval.engine.shared import Answered, Counts
from eval.journal import JournaledAnswer, append, read
from eval.known import KEY, Known, known
from eval.likelihood import Candidates, likelihood, record_fields
from eval.messages import turns_and_pictures
from eval.questions import AskedQuestion, Questions
from eval.request import BenchmarkJob

GiveCandidates = Callable[[str, int], Candidates | None]
"""Benchmark and document -> the right answer; None where it is no short text."""


@runtime_checkable
class AnswersTogether(Protocol):
    """A model that can be asked questions about one picture together."""

    notes: list[str]
    """What a user should know of how the answers came about."""

    @property
    def counts(self) -> Counts | None:
        """What was computed where prefixes are shared; None: they are not."""

    def encode(
        self, turns: Sequence[Turn], pictures: Sequence[Any], prepared: dict[bytes, torch.Tensor]
    ) -> Encoded:
        """What the model reads before it answers; ``prepared``: pixels of pictures, filled."""

    def scored_answers(
        self, prompts: Sequence[Encoded], given: Sequence[Sequence[str]], decoding: Decoding
    ) -> list[Answered]:
        """The answer to each prompt, in order, and the log probabilities of the texts ``given``."""

    def continuation(self, text: str) -> torch.Tensor:
        """Token ids int64 [T] of an answer behind a prompt, without its end."""

    def logs(
        self, prompts: Sequence[Encoded], given: Sequence[Sequence[torch.Tensor]]
    ) -> list[list[float]]:
        """log p of the texts ``given`` (token ids) for each prompt, without shared prefixes."""


@dataclass(frozen=True)
class EncodedQuestion:
    """A question that was read: what the model is given, and the digest of it."""

    encoded: Encoded
    prompt: str
    candidates: Candidates | None = None
    """The right answer, if its likelihood is to be taken."""


class ReplayModel(lmms):
    """In the place of a model: its answers of before where it gave them all, else its answers."""

    is_simple = False

    def __init__(
        self,
        jobs: Sequence[BenchmarkJob],
        make_model: Callable[[], Any],
        *,
        questions: Questions | None = None,
        number: int = 0,
        ranks: int = 1,
        batch_size: int,
        device: str,
        answered: Callable[[int], None],
        candidates: GiveCandidates | None = None,
    ) -> None:
        """``candidates``: gives the right answer, whose likelihood is to be taken. ``make_model``
        is called at once, unless there are answers for every job: then when one of them turns out
        to be missing. ``questions``: for the engine that shares prefixes; rank ``number`` of
        ``ranks`` answers every so many-th chunk of them.
        """
        super().__init__()
        self.questions, self.ranks = questions, ranks
        self.batch_size, self.device, self.number = batch_size, device, number
        self.answered, self._make, self.candidates = answered, make_model, candidates
        self.known = {job.name: known(job) for job in jobs}
        self.outputs = {job.name: Path(job.output) for job in jobs}
        self._told: dict[str, int] = {}
        self._ended: set[str] = set()
        """Benchmarks whose turn is over: the run may have moved their folders away by now."""
        self.reused = 0
        """Answers that were not asked for again."""
        self._model = None if all(self.known.values()) else make_model()

    def clean(self) -> None:
        """Does nothing; lmms-eval's own would delete the model after the first task."""

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """The answer to each request, all of one benchmark, in order."""
        if not requests:
            return []
        name = requests[0].args[4]
        found = self._asked(name, requests)
        self._ended.add(name)
        return found

    def _asked(self, name: str, requests: list[Instance]) -> list[str]:
        prompts: dict[int, str] = {}
        likely: Mapping[int, tuple[float, ...] | None] = {}
        found = self._before(requests, self.known[name], prompts)
        together = self.questions is not None and (
            self._model is None or isinstance(self._model, AnswersTogether)
        )
        if together and not _all_ranks(found is not None, self.ranks):
            found = None  # the others need this rank's share of the chunks
        if found is not None:
            self.reused += len(found)
            self.answered(len(found))
            likely = self._recorded(name, prompts)
        elif self.questions is not None and isinstance(self.model, AnswersTogether):
            return self._shared(name, [request.args[3] for request in requests])
        else:
            self.model.task_dict = self.task_dict
            found = self.model.generate_until([_noting(r, prompts) for r in requests])
            likely = self._apart(requests)
        numbers = [request.args[3] for request in requests]
        kept = {
            n: JournaledAnswer(a, prompts.get(n), likely.get(n))
            for n, a in zip(numbers, found, strict=True)
        }
        append(self.outputs[name], self.number, kept)
        return found

    @property
    def model(self) -> Any:
        """The model, made when it is first needed."""
        if self._model is None:
            self._model = self._make()
        return self._model

    def _shared(self, name: str, documents: Sequence[int]) -> list[str]:
        """Answers to documents of the benchmark ``name``, from this rank's and the others' chunks
        of questions.
        """
        assert self.questions is not None
        open_ = [job for job in self.outputs if job == name or job not in self._ended]
        known = {job: read(self.outputs[job]) for job in open_}
        self.reused += sum(document in known[name] for document in documents)
        _meet(self.ranks)  # all have read the same
        chunks = [
            chunk
            for chunk in (self._open(c, known, name) for c in self.questions.chunks(name))
            if chunk
        ]
        self._answer(chunks[self.number :: self.ranks], name)
        _meet(self.ranks)
        found = read(self.outputs[name])
        return [found[document].answer for document in documents]

    def _open(
        self,
        chunk: Sequence[AskedQuestion],
        known: Mapping[str, Mapping[int, JournaledAnswer]],
        name: str,
    ) -> list[AskedQuestion]:
        """The questions of a chunk that are still to be answered.

        In half precision all of them or none: they are to run in the same batches as at first.
        """
        assert self.questions is not None
        asked = [q for q in chunk if q.benchmark in known]  # the others are answered
        left = [q for q in asked if q.document not in known[q.benchmark]]
        return left if self.questions.mixed or not left else list(chunk)

    def _answer(self, chunks: Sequence[Sequence[AskedQuestion]], name: str) -> None:
        """Answer the questions; those of the next chunk are read meanwhile."""
        model = self.model
        with ThreadPoolExecutor(1) as reader:
            coming = [reader.submit(_read, model, c, self.candidates) for c in chunks[:1]]
            for number, chunk in enumerate(chunks):
                after = chunks[number + 1 : number + 2]
                coming += [reader.submit(_read, model, c, self.candidates) for c in after]
                asked, failed = coming.pop(0).result()
                for question, error in failed.items():
                    if chunk[question].benchmark == name:
                        raise error  # that of another benchmark is raised in its turn
                self._keep(chunk, asked)

    def _keep(self, chunk: Sequence[AskedQuestion], asked: Mapping[int, EncodedQuestion]) -> None:
        """Answer the read questions of a chunk and write them down."""
        for decoding in dict.fromkeys(chunk[i].decoding for i in asked):
            places = [i for i in asked if chunk[i].decoding == decoding]
            given = [asked[i].candidates for i in places]
            texts = [c.texts if c else [] for c in given]
            answers = self.model.scored_answers([asked[i].encoded for i in places], texts, decoding)
            found: dict[str, dict[int, JournaledAnswer]] = {}
            for i, one, candidates in zip(places, answers, given, strict=True):
                likely = self._likely(candidates, one.logs)
                kept = JournaledAnswer(one.text, asked[i].prompt, likely)
                found.setdefault(chunk[i].benchmark, {})[chunk[i].document] = kept
            for benchmark, mine in found.items():
                append(self.outputs[benchmark], self.number, mine)

    def _likely(
        self, candidates: Candidates | None, logs: Sequence[float]
    ) -> tuple[float, ...] | None:
        """The likelihood of the right answer for the journal."""
        if candidates is None:
            return None if self.candidates is None else ()
        tokens = [len(self.model.continuation(text)) + 1 for text in candidates.texts]
        return likelihood(candidates, logs, tokens)

    def _recorded(
        self, name: str, prompts: Mapping[int, str]
    ) -> dict[int, tuple[float, ...] | None]:
        """What earlier evaluations recorded of the same right answers to the same prompts."""
        if self.candidates is None:
            return {}
        given = {number: self.candidates(name, number) for number in prompts}
        told = self.known[name].likelihoods
        return {
            number: told.get((prompts[number], one.digest)) if one else ()
            for number, one in given.items()
        }

    def _apart(self, requests: Sequence[Instance]) -> dict[int, tuple[float, ...] | None]:
        """The likelihoods where answers came without them, from a model that can give them."""
        model, found = self.model, {}
        if self.candidates is None or not isinstance(model, AnswersTogether):
            return {}
        for request in requests:
            _, messages, _, number, task, split = request.args
            candidates = self.candidates(task, number)
            logs: list[float] = []
            if candidates is not None:
                read = turns_and_pictures(messages(self.task_dict[task][split][number]))
                ids = [model.continuation(text) for text in candidates.texts]
                [logs] = model.logs([model.encode(*read, {})], [ids])
            found[number] = self._likely(candidates, logs)
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

    @property
    def engine(self) -> str:
        """``prefix``, also for answers of before, or ``plain``."""
        if self.questions is None or self._model is None:
            return "plain" if self.questions is None else "prefix"
        shares = isinstance(self._model, AnswersTogether) and self._model.counts is not None
        return "prefix" if shares else "plain"

    def how(self) -> dict[str, Any]:
        """How answers were computed since the last call: engine, tokens, notes for the user."""
        if self._model is None:
            return {}
        if not isinstance(self._model, AnswersTogether):
            return {"engine": "plain"}
        notes, counts = list(self._model.notes), self._model.counts
        self._model.notes.clear()
        told = {} if counts is None else {
            name: value - self._told.get(name, 0) for name, value in vars(counts).items()
        }  # fmt: skip
        self._told = {} if counts is None else dict(vars(counts))
        return {"engine": self.engine, **told, **({"notes": notes} if notes else {})}

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise NotImplementedError

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise NotImplementedError


def journal_fields(
    document: int,
    answers: Mapping[int, JournaledAnswer],
    give: Callable[[int], Candidates | None],
) -> dict[str, Any]:
    """What the journal adds to a sample's record: the digest of what was asked, and how likely the
    right answer is. ``give``: the right answer to a document."""
    kept = answers.get(document)
    if kept is None:
        return {}
    asked = {KEY: kept.prompt} if kept.prompt else {}
    return {**asked, **record_fields(kept.likelihood, give(document) if kept.likelihood else None)}


def _all_ranks(mine: bool, ranks: int) -> bool:
    """Whether it is so on every rank."""
    if ranks == 1:
        return mine
    said: list[bool] = [False] * ranks
    torch.distributed.all_gather_object(said, mine)
    return all(said)


def _meet(ranks: int) -> None:
    """Wait for the other ranks."""
    if ranks > 1:
        torch.distributed.barrier()


def _read(
    model: AnswersTogether, chunk: Sequence[AskedQuestion], give: GiveCandidates | None
) -> tuple[dict[int, EncodedQuestion], dict[int, UserError]]:
    """Of the questions by their places: what the model is given, or why one cannot be read."""
    prepared: dict[bytes, torch.Tensor] = {}
    asked: dict[int, EncodedQuestion] = {}
    failed: dict[int, UserError] = {}
    for place, question in enumerate(chunk):
        try:
            turns, pictures = turns_and_pictures(question.read())
            prompt = digest_of(turns, pictures, question.decoding)
            encoded = model.encode(turns, pictures, prepared)
            candidates = give(question.benchmark, question.document) if give else None
            asked[place] = EncodedQuestion(encoded, prompt, candidates)
        except UserError as error:
            failed[place] = error
    return asked, failed


def digest(messages: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> str:
    """The digest of a request's messages and generation settings, see :func:`digest_of`."""
    return digest_of(*turns_and_pictures(messages), Decoding.from_settings(settings))


def digest_of(turns: Sequence[Turn], pictures: Sequence[Any], decoding: Decoding) -> str:
    """What the model is given, and how its answer is generated, as 16 hexadecimal digits."""
    said = [[turn.role, turn.text] for turn in turns]
    found = hashlib.sha256(canonical([said, vars(decoding)]).encode())
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
