"""The demo's tasks through lmms-eval itself, with models whose right answers are known."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from lmms_eval.api.model import lmms

from coincide.ledger.result import Score
from coincide.schema import UserError
from coincide.system.files import sha256_file
from eval.loading import load_tasks
from eval.request import BenchmarkJob
from eval.suite import TASKS
from eval.worker import evaluate
from tests.eval.bench import ANSWERS, ROWS, answer, make_parquet, suite

FIGURES = {name: dict(b.metrics) for name, b in suite().benchmarks.items()}

Make = Callable[[str], "Bench"]


class Answerer(lmms):
    """Answers each document by a function of the document and its number."""

    is_simple = False
    batch_size = 1

    def __init__(self, reply: Callable[[dict[str, Any], int], str]) -> None:
        super().__init__()
        self.reply = reply

    def generate_until(self, requests: list[Any]) -> list[str]:
        arguments = [request.args for request in requests]
        return [self.reply(self.task_dict[t][s][i], i) for _, _, _, i, t, s in arguments]

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        raise NotImplementedError

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        raise NotImplementedError


class Bench:
    def __init__(self, folder: Path, name: str, metrics: dict[str, str] | None = None) -> None:
        data = folder / "test.parquet"
        make_parquet(data, name)
        self.output = folder
        metrics = metrics or FIGURES[name]
        self.job = BenchmarkJob(
            name=name, task=f"demo_{name}", metrics=metrics, primary=next(iter(metrics)),
            protocol="split=test", output=str(folder), tasks_dir=str(TASKS / "demo"),
            data_files={"test": str(data)},
        )  # fmt: skip
        self.manager, self.tasks = load_tasks([self.job], folder / "tasks")

    def run(self, reply: Callable[[dict[str, Any], int], str]) -> dict[str, Score]:
        evaluate(Answerer(reply), self.job, self.tasks[self.job.name], self.manager)
        record = json.loads((self.output / "result.json").read_text())
        return {score["metric"]: Score(**score) for score in record["scores"]}

    def samples(self) -> list[dict[str, Any]]:
        lines = (self.output / "samples.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


def right(doc: dict[str, Any], row: int) -> str:
    return doc["answer"]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Bench]]:
    """A benchmark by its name, loaded once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMMS_EVAL_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield cache(lambda name: Bench(tmp_path_factory.mktemp(name), name))


@pytest.mark.parametrize("name", ANSWERS)
def test_an_oracle_is_always_right(name: str, bench: Make) -> None:
    found = bench(name).run(right)
    assert list(found) == list(FIGURES[name])
    shares = {metric: 7 / ROWS if metric == "yes_ratio" else 1.0 for metric in found}
    assert {metric: score.value for metric, score in found.items()} == shares
    assert found["accuracy"].n == ROWS and found["accuracy"].stderr == 0.0


@pytest.mark.parametrize("name", ANSWERS)
def test_a_known_share_is_the_score(name: str, bench: Make) -> None:
    made = bench(name)
    found = made.run(lambda doc, i: doc["answer"] if i < 13 else "I cannot tell")
    assert found["accuracy"].value == 13 / ROWS
    assert found["accuracy"].stderr == pytest.approx(math.sqrt(0.65 * 0.35 / (ROWS - 1)))
    assert found["accuracy"].protocol == "split=test"
    kept = made.samples()
    assert [sample["score"] for sample in kept] == [1.0] * 13 + [0.0] * 7
    assert [sample["doc_id"] for sample in kept] == list(range(ROWS))
    assert kept[14]["question_id"] == 114 and kept[14]["category"] == "kind0"
    assert kept[14]["answer"] == "I cannot tell" and kept[14]["target"] == answer(name, 14)
    assert kept[14]["question"].startswith(f"what {name}")


def test_what_is_finished_has_its_hash(bench: Make) -> None:
    """So that an attempt that is killed before its commit is not read as somebody changed it."""
    output = (made := bench("choice")).output
    made.run(right)
    noted = {path.name: path.read_text() for path in (output / ".sums").iterdir()}
    assert noted == {n: sha256_file(output / n) for n in ("samples.jsonl", "result.json")}


def test_presence_counts_as_pope_does(bench: Make) -> None:
    """7 true yes, 13 true no; said yes in rows 0..9: 4 of them true."""
    made = bench("presence")
    found = made.run(lambda doc, i: "Yes, it is." if i < 10 else "No.")
    values = {metric: score.value for metric, score in found.items()}
    assert values == {
        "accuracy": 11 / 20, "precision": 4 / 10, "recall": 4 / 7, "f1": 8 / 17, "yes_ratio": 0.5,
    }  # fmt: skip
    assert found["f1"].stderr is None, "no mean of per-sample values, so no standard error"


def test_presence_of_a_model_that_never_says_yes(bench: Make) -> None:
    found = bench("presence").run(lambda doc, i: "perhaps" if i % 2 else "no")
    assert [found[m].value for m in ("precision", "recall", "f1", "yes_ratio")] == [0.0] * 4
    assert (
        found["accuracy"].value == sum(answer("presence", i) == "no" for i in range(0, 20, 2)) / 20
    )


@pytest.mark.parametrize(
    ("reply", "exact", "flexible"),
    [
        ("{letter}", 1.0, 1.0), ("{letter}.", 1.0, 1.0), ("({letter})", 1.0, 1.0),
        ("{letter}. {text}", 0.0, 1.0), ("The answer is {letter}", 0.0, 1.0),
        ("{text}", 0.0, 1.0), ("The {text}", 0.0, 1.0),
        ("A dark night", 0.0, 0.0), ("", 0.0, 0.0),
    ],
)  # fmt: skip
def test_choice(reply: str, exact: float, flexible: float, bench: Make) -> None:
    text = {"A": "red", "C": "blue", "D": "dark blue"}
    found = bench("choice").run(
        lambda doc, i: reply.format(letter=doc["answer"], text=text[doc["answer"]])
    )
    assert (found["accuracy"].value, found["flexible"].value) == (exact, flexible)


def test_answers_are_normalised_as_vqa_does(bench: Make) -> None:
    replies = ["Three.", "7", "the 12"]
    assert bench("counting").run(lambda doc, i: replies[i % 3])["accuracy"].value == 1.0


def test_reading_keeps_articles_and_ignores_case(bench: Make) -> None:
    replies = ["A", "the  CAT", "forty two"]
    found = bench("reading").run(lambda doc, i: replies[i % 3])
    assert found["accuracy"].value == 14 / ROWS


def test_a_metric_that_the_task_lacks_is_named(bench: Make, tmp_path: Path) -> None:
    made = Bench(tmp_path, "choice", {"accuracy": "anls"})
    with pytest.raises(UserError, match=r"anls.*exact_match,none, flexible_match,none"):
        made.run(right)
    assert not (tmp_path / "result.json").exists()


def test_a_value_that_is_no_number_is_missing(bench: Make, tmp_path: Path) -> None:
    made = Bench(tmp_path, "counting")
    made.tasks["counting"]._aggregation_list["exact_match"] = lambda items: float("nan")
    score = made.run(right)["accuracy"]
    assert score.value is None and "nan" in score.why and score.n == ROWS


def test_a_file_that_is_missing_or_not_whole_is_named(tmp_path: Path) -> None:
    def load(path: Path, says: str) -> None:
        job = BenchmarkJob(
            "counting", "demo_counting", {}, "", "", "", str(TASKS / "demo"), {"test": str(path)}
        )
        with pytest.raises(UserError, match=rf"counting.*{path.name} ?{says}"):
            load_tasks([job], tmp_path / "tasks")

    load(tmp_path / "gone.pq", "")
    make_parquet(tmp_path / "whole.pq", "counting", rows=2)
    (tmp_path / "half.pq").write_bytes((tmp_path / "whole.pq").read_bytes()[:300])
    load(tmp_path / "half.pq", "is cut off after 300 bytes")
    (tmp_path / "lfs.pq").write_text("version https://git-lfs.github.com/spec/v1\n")
    load(tmp_path / "lfs.pq", "is a git-lfs pointer")
    make_parquet(tmp_path / "none.pq", "counting", rows=0)
    load(tmp_path / "none.pq", "holds no rows")


def test_a_task_that_is_nowhere_is_named(tmp_path: Path) -> None:
    job = BenchmarkJob("smell", "demo_smell", {}, "", "", "", str(TASKS / "demo"))
    with pytest.raises(UserError, match=r"smell.*no task of"):
        load_tasks([job], tmp_path / "tasks")
