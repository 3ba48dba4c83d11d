"""Questions about one picture are asked together, by one rank, once, also after a kill."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from coincide.models.encode import Encoded
from coincide.schema import Turn, UserError
from eval import kept, questions
from eval.decoding import Decoding
from eval.engine.shared import Answered, Counts
from eval.journal import JournaledAnswer, append, read
from eval.kept import ReplayModel
from eval.loading import answered_protocol
from eval.questions import Questions
from eval.request import BenchmarkJob

SETTINGS = {"max_new_tokens": 4, "until": []}


class Asked:
    """A model that answers with the question, and remembers what was asked together."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.task_dict: dict[str, Any] = {}
        self.dies_after = 1_000
        self.notes: list[str] = []
        self.counts = Counts()

    def encode(self, turns: Sequence[Turn], pictures: Sequence[Any], prepared: Any) -> Encoded:
        return turns[0].text.removeprefix("<image>\n")  # type: ignore[return-value]

    def scored_answers(
        self, prompts: Sequence[Any], given: Sequence[Any], decoding: Decoding
    ) -> list[Answered]:
        if len(self.batches) == self.dies_after:
            raise KeyboardInterrupt
        self.batches.append(list(prompts))
        return [Answered(f"to {prompt}") for prompt in prompts]

    def continuation(self, text: str) -> Any:
        raise NotImplementedError

    def logs(self, prompts: Sequence[Any], given: Sequence[Any]) -> Any:
        raise NotImplementedError


def task(name: str, pictures: Sequence[int | None], broken: int = -1) -> Any:
    """A loaded task whose document i shows a picture of the colour ``pictures[i]``, or none."""
    from datasets import Dataset, Features, Value
    from datasets import Image as Picture

    shown = [None if c is None else Image.new("RGB", (8, 8), (c, c, c)) for c in pictures]
    rows = Dataset.from_dict(
        {"image": shown, "question": [f"{name}{i}" for i in range(len(shown))]},
        Features({"image": Picture(), "question": Value("string")}),
    )

    def messages(document: Any) -> list[dict[str, Any]]:
        if document["question"] == f"{name}{broken}":
            raise UserError(f"{name}, document {broken}: broken")
        parts = [{"type": "image", "url": document["image"]}] * (document["image"] is not None)
        text = {"type": "text", "text": document["question"]}
        return [{"role": "user", "content": [*parts, text]}]

    config = SimpleNamespace(test_split="test", validation_split=None, generation_kwargs=SETTINGS)
    return SimpleNamespace(config=config, dataset={"test": rows}, doc_to_messages=messages)


@pytest.fixture
def jobs(tmp_path: Path) -> list[BenchmarkJob]:
    for name in "ab":
        (tmp_path / name).mkdir()
    return [BenchmarkJob(n, n, {"acc": "acc"}, "acc", "", str(tmp_path / n)) for n in "ab"]


def tasks(**changes: Any) -> dict[str, Any]:
    return {"a": task("a", [1, 2, 1, None, 3], **changes), "b": task("b", [2, 1, 4])}


def asking(
    jobs: list[BenchmarkJob], model: Asked, loaded: dict[str, Any], *, mixed: bool = True,
    number: int = 0, ranks: int = 1,
) -> ReplayModel:  # fmt: skip
    return ReplayModel(
        jobs, lambda: model, questions=Questions(jobs, loaded, mixed=mixed), number=number,
        ranks=ranks, batch_size=1, device="cpu", answered=lambda count: None,
    )  # fmt: skip


def ask(asked: ReplayModel, loaded: dict[str, Any], name: str, every: int = 1) -> list[str]:
    """As lmms-eval asks: this rank's share of the documents."""
    documents = range(asked.number, len(loaded[name].dataset["test"]), every)
    requests = [
        SimpleNamespace(args=("", loaded[name].doc_to_messages, SETTINGS, i, name, "test"))
        for i in documents
    ]
    return asked.generate_until(requests)  # type: ignore[arg-type]


def test_what_benchmarks_ask_about_a_picture_is_asked_together(
    jobs: list[BenchmarkJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "CHUNK", 4)
    model, loaded = Asked(), tasks()
    asked = asking(jobs, model, loaded)
    assert ask(asked, loaded, "a") == [f"to a{i}" for i in range(5)]
    assert [sorted(batch) for batch in model.batches] == [
        ["a0", "a2", "b1"], ["a1", "a3", "a4", "b0"],
    ]  # fmt: skip
    assert ask(asked, loaded, "b") == ["to b0", "to b1", "to b2"]
    assert model.batches[2:] == [["b2"]]
    assert all(len(kept.prompt or "") == 16 for kept in read(Path(jobs[0].output)).values())


def test_a_benchmark_whose_folder_has_become_an_artifact_is_not_looked_for(
    jobs: list[BenchmarkJob], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The run renames a benchmark's folder as soon as it is scored, while the next is asked."""
    monkeypatch.setattr(questions, "CHUNK", 4)
    model, loaded = Asked(), tasks()
    asked, readings = asking(jobs, model, loaded), []
    monkeypatch.setattr(kept, "read", lambda folder: readings.append(folder.name) or read(folder))
    ask(asked, loaded, "a")
    (tmp_path / "a").rename(tmp_path / "artifact")
    readings.clear()
    assert ask(asked, loaded, "b") == ["to b0", "to b1", "to b2"]
    assert set(readings) == {"b"} and len(model.batches) == 3


def test_in_half_precision_a_benchmark_does_not_depend_on_the_others(
    jobs: list[BenchmarkJob],
) -> None:
    model, loaded = Asked(), tasks()
    asked = asking(jobs, model, loaded, mixed=False)
    ask(asked, loaded, "a")
    ask(asked, loaded, "b")
    assert [sorted(batch) for batch in model.batches] == [
        ["a0", "a1", "a2", "a3", "a4"], ["b0", "b1", "b2"],
    ]  # fmt: skip


@pytest.mark.parametrize("mixed", [True, False])
def test_after_a_kill_only_what_is_missing_is_asked(
    jobs: list[BenchmarkJob], monkeypatch: pytest.MonkeyPatch, mixed: bool
) -> None:
    """A torn line is asked again; in half precision with all that ran beside it."""
    monkeypatch.setattr(questions, "CHUNK", 2)
    first, loaded = Asked(), tasks()
    first.dies_after = 2
    with pytest.raises(KeyboardInterrupt):
        ask(asking(jobs, first, loaded, mixed=mixed), loaded, "a")
    [journal] = Path(jobs[0].output).glob("answers-*.jsonl")
    journal.write_bytes(journal.read_bytes()[:-9])
    again = Asked()
    assert ask(asking(jobs, again, loaded, mixed=mixed), loaded, "a") == [
        f"to a{i}" for i in range(5)
    ]
    before = {question for batch in first.batches for question in batch if question[0] == "a"}
    after = {question for batch in again.batches for question in batch if question[0] == "a"}
    assert before | after == {f"a{i}" for i in range(5)}
    assert len(before & after) == (1 if mixed else 2)


def test_ranks_share_pictures_not_questions(
    jobs: list[BenchmarkJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "CHUNK", 1)
    monkeypatch.setattr(kept, "_meet", lambda ranks: None)
    loaded, models = tasks(), [Asked(), Asked()]
    monkeypatch.setattr(kept, "_all_ranks", lambda mine, ranks: mine)
    for number in (1, 0):
        asked = asking(jobs, models[number], loaded, mixed=False, number=number, ranks=2)
        monkeypatch.setattr(asked, "known", dict.fromkeys("ab", kept.Known()))
        if number == 1:  # the other rank has not written yet
            with pytest.raises(KeyError):
                ask(asked, loaded, "a", every=2)
            Path(jobs[0].output, "answers-1.jsonl").rename(Path(jobs[0].output, "held"))
        else:
            Path(jobs[0].output, "answers-1.jsonl").touch()
            monkeypatch.setattr(kept, "_meet", lambda ranks: _give_back(jobs[0]))
            assert ask(asked, loaded, "a", every=2) == ["to a0", "to a2", "to a4"]
    assert [model.batches for model in models] == [[["a0", "a2"], ["a3"]], [["a1"], ["a4"]]]


def test_answers_of_before_are_used_only_where_every_rank_has_them(
    jobs: list[BenchmarkJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a rank that has all of its own would not answer its share of the others' chunks."""
    monkeypatch.setattr(kept, "_meet", lambda ranks: None)
    loaded, model = tasks(), Asked()
    asked = asking(jobs, model, loaded, mixed=False, number=0, ranks=2)
    before = kept.Known(by_document={i: {"answer": "old"} for i in range(5)})
    monkeypatch.setattr(asked, "known", {"a": before, "b": kept.Known()})
    monkeypatch.setattr(kept, "_all_ranks", lambda mine, ranks: mine)
    assert ask(asked, loaded, "a", every=2) == ["old"] * 3
    assert model.batches == []
    for journal in Path(jobs[0].output).glob("answers-*"):
        journal.unlink()
    monkeypatch.setattr(kept, "_all_ranks", lambda mine, ranks: False)
    assert ask(asked, loaded, "a", every=2) == ["to a0", "to a2", "to a4"]
    assert model.batches


def _give_back(job: BenchmarkJob) -> None:
    held = Path(job.output, "held")
    if Path(job.output, "answers-0.jsonl").exists() and held.exists():
        held.rename(Path(job.output, "answers-1.jsonl"))


def test_a_broken_document_fails_its_own_benchmark_alone(jobs: list[BenchmarkJob]) -> None:
    loaded = tasks(broken=2)
    asked = asking(jobs, Asked(), loaded)
    assert ask(asked, loaded, "b") == ["to b0", "to b1", "to b2"]
    with pytest.raises(UserError, match="a, document 2: broken"):
        ask(asked, loaded, "a")


def test_the_journal_keeps_every_whole_and_unchanged_line(tmp_path: Path) -> None:
    append(
        tmp_path, 0, {1: JournaledAnswer("one\nline\u2028", "p"), 2: JournaledAnswer("two", None)}
    )
    with (tmp_path / "answers-0.jsonl").open("ab") as file:
        file.write(b'{"document": 3, "ans')
    changed = (tmp_path / "answers-0.jsonl").read_text().replace('"two"', '"too"')
    (tmp_path / "answers-0.jsonl").write_text(changed)
    append(tmp_path, 0, {6: JournaledAnswer("two", None)})
    append(tmp_path, 0, {4: JournaledAnswer("four", "q")})
    append(tmp_path, 1, {5: JournaledAnswer("", "r")})
    assert read(tmp_path) == {
        1: JournaledAnswer("one\nline\u2028", "p"),
        4: JournaledAnswer("four", "q"),
        5: JournaledAnswer("", "r"),
        6: JournaledAnswer("two", None),
    }


def test_the_protocol_names_the_engine_that_answered() -> None:
    stated = "split=test; engine=prefix, 32768 tokens; batch=1"
    assert answered_protocol(stated, "prefix") == stated
    assert answered_protocol(stated, "plain") == "split=test; engine=plain; batch=1"
    assert answered_protocol("split=test", "plain") == "split=test"
