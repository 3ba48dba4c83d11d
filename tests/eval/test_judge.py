"""The judge: what it answers counts, what it fails to answer is missing, and nothing is a guess."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coincide.protocols import Requirement
from coincide.schema import UserError
from coincide.store import Step, Store
from eval import process
from eval.judge import Judge, JudgeClient, JudgeError
from eval.judged import attach
from eval.replied import JudgeReplies, merge_replies
from eval.stage import evaluate
from launch.again import reopen_unanswered
from tests.eval import hub
from tests.eval.bench import samples, scores
from tests.eval.fake_judge import Answer, FakeJudge, serving
from tests.eval.inside import worker_inside
from tests.eval.real import JUDGED, Bench, steps, suite, values
from tests.eval.scripted import by_script

MARKS = ["9 8", "10 5", "8 8", "9 3", "10 10", "8 2"]
"""LLaVA-W: of the reference answers 54 together, of the model 36."""
SHARES = ["1.0", "0.5", "0.0", "0.3", "0.7"]


@pytest.fixture
def judge() -> Iterator[FakeJudge]:
    with serving() as server:
        yield server


def ask(judge: FakeJudge, *, timeout: float = 5.0, tries: int = 4) -> tuple[str, list[float]]:
    """The reply to one prompt, and how long each wait before a further try would have been."""
    waits: list[float] = []
    client = JudgeClient(
        Judge(judge.url, "fake", None, timeout=timeout, tries=tries), "secret", sleep=waits.append
    )
    return client.ask("p", str.isdigit, max_tokens=8), waits


def script(*answers: Answer) -> Callable[[str, int], Answer]:
    """The answers one after another, the last one for ever."""
    return lambda prompt, call: answers[min(call, len(answers) - 1)]


@pytest.mark.parametrize("first", [429, 500, 503, 408, "no number", b"<html>", b"{}", b"[]"])
def test_what_may_pass_is_tried_again(first: Answer, judge: FakeJudge) -> None:
    judge.answer = script(first, first, "7")
    assert ask(judge) == ("7", [1.0, 2.0])
    assert judge.paths == ["/v1/chat/completions"] * 3
    assert judge.keys == ["Bearer secret"] * 3
    assert judge.asked[0]["model"] == "fake" and judge.asked[0]["max_tokens"] == 8


@pytest.mark.parametrize(
    ("answer", "calls", "why"),
    [
        (429, 4, "HTTP 429, 4 tries"),
        (500, 4, "HTTP 500, 4 tries"),
        ("no number", 4, "malformed reply, 4 tries"),
        (b'{"choices": []}', 4, "malformed reply, 4 tries"),
        (401, 1, "HTTP 401"),
        (404, 1, "HTTP 404"),
    ],
)
def test_what_does_not_pass_is_a_failure(
    answer: Answer, calls: int, why: str, judge: FakeJudge
) -> None:
    judge.answer = script(answer)
    with pytest.raises(JudgeError) as error:
        ask(judge)
    assert (str(error.value), len(judge.asked)) == (why, calls)


def test_a_stalled_judge_and_no_judge_at_all(judge: FakeJudge) -> None:
    judge.answer = script(-1)
    with pytest.raises(JudgeError, match=r"^timeout, 2 tries$"):
        ask(judge, timeout=0.1, tries=2)
    judge.url = "http://127.0.0.1:9/v1"
    with pytest.raises(JudgeError, match=r"^no answer \(URLError\), 2 tries$"):
        ask(judge, tries=2)


def test_an_unreadable_reply_is_asked_for_at_a_higher_temperature(judge: FakeJudge) -> None:
    judge.answer = script("hm", "hm", "7")
    ask(judge)
    assert [asked["temperature"] for asked in judge.asked] == [0.0, 0.5, 1.0]


def test_a_judge_that_is_down_is_not_asked_for_ever(judge: FakeJudge) -> None:
    judge.answer = script(500)
    client = JudgeClient(Judge(judge.url, "fake", tries=2), sleep=lambda seconds: None)
    for expected in [*["HTTP 500, 2 tries"] * 3, *["not asked: 3 calls in a row failed"] * 2]:
        with pytest.raises(JudgeError, match=expected):
            client.ask("p", str.isdigit, max_tokens=8)
    assert len(judge.asked) == 6


def test_replies_outlive_a_kill_and_the_number_of_processes(
    tmp_path: Path, judge: FakeJudge
) -> None:
    judge.answer = script("7")
    for rank, prompt in enumerate("ab"):
        JudgeClient(Judge(judge.url, "fake"), memory=JudgeReplies(tmp_path, rank)).ask(
            prompt, str.isdigit, max_tokens=8
        )
    with (tmp_path / "judge-1.jsonl").open("a") as file:
        file.write('{"prompt": "cut o')
    again = JudgeClient(Judge(judge.url, "fake"), memory=JudgeReplies(tmp_path, 0))
    assert [again.ask(p, str.isdigit, max_tokens=8) for p in "ab"] == ["7", "7"]
    assert len(judge.asked) == 2
    merge_replies(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["judge.jsonl"]
    assert JudgeReplies(tmp_path, 5).get("b") == "7" and JudgeReplies(tmp_path, 5).get("c") is None


# --- the benchmarks that ask it -----------------------------------------------------------------


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bench, FakeJudge]]:
    folder = tmp_path_factory.mktemp("judged")
    hub.mirror(folder)
    with (
        serving() as server,
        hub.offline(folder / "cache"),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.chdir(folder)
        yield Bench(folder / "out", JUDGED, Judge(server.url, "fake", None, tries=3)), server


def by_number(answers: list[str], pattern: str) -> Callable[[str, int], Answer]:
    """The answer to the question whose number ``pattern`` finds in the prompt."""

    def answer(prompt: str, call: int) -> Answer:
        found = re.findall(pattern, prompt)
        return answers[int(found[-1])]

    return answer


LLAVA_W = by_number(MARKS, r"my answer (\d)")
MMVET = by_number(SHARES, r"my answer v1_(\d)")


def test_llava_w_is_relative_to_the_reference(served: tuple[Bench, FakeJudge]) -> None:
    bench, judge = served
    judge.answer = LLAVA_W
    found = bench.run("llava_w", by_script("right"))
    assert values(found) == {
        "relative": pytest.approx(100 * 36 / 54, abs=0.1),
        "conversation": pytest.approx(100 * (8 + 3) / (9 + 9), abs=0.1),
        "detail": pytest.approx(100 * (5 + 10) / (10 + 10), abs=0.1),
        "complex": pytest.approx(100 * (8 + 2) / (8 + 8), abs=0.1),
    }
    assert found["relative"].stderr is not None and 5 < found["relative"].stderr < 20
    assert [row["score"] for row in bench.samples("llava_w")] == [80, 50, 80, 30, 100, 20]
    assert "[Context]\nA lake." in judge.asked[-1]["messages"][0]["content"]


def test_mmvet_is_a_mean_of_shares(served: tuple[Bench, FakeJudge]) -> None:
    bench, judge = served
    judge.answer = MMVET
    found = bench.run("mmvet", by_script("right"))
    assert values(found) == {"score": pytest.approx(100 * 2.5 / 5)}
    assert [row["score"] for row in bench.samples("mmvet")] == [100, 50, 0, 30, 70]
    assert "Ground truth | Prediction" in judge.asked[-1]["messages"][0]["content"]


@pytest.mark.parametrize("name", JUDGED)
@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (429, "HTTP 429, 3 tries: 1"),
        (401, "HTTP 401: 1"),
        ("I would rather not say.", "malformed reply, 3 tries: 1"),
        ("7", "malformed reply, 3 tries: 1"),
        (b"\xff\xfe", "malformed reply, 3 tries: 1"),
    ],
    ids=["rate limit", "refused", "malformed", "out of range", "no JSON"],
)
def test_one_failed_call_is_a_missing_value(
    name: str, bad: Answer, why: str, served: tuple[Bench, FakeJudge]
) -> None:
    bench, judge = served
    good = LLAVA_W if name == "llava_w" else MMVET
    judge.answer = lambda p, call: bad if re.search(r"my answer (v1_)?2", p) else good(p, call)
    found = bench.run(name, by_script("right"))
    assert {score.value for score in found.values()} == {None}
    asked = 6 if name == "llava_w" else 5
    for score in found.values():
        assert score.why.startswith(f"1 of {asked} judge calls failed ({why})")
    missing = [row["doc_id"] for row in bench.samples(name) if row["score"] is None]
    assert missing == [2]


@pytest.mark.parametrize("name", JUDGED)
def test_a_judge_that_always_fails_gives_no_number(
    name: str, served: tuple[Bench, FakeJudge]
) -> None:
    """lmms-eval alone would report 100.0 and 0."""
    bench, judge = served
    judge.answer = script(429)
    found = bench.run(name, by_script("right"))
    assert {score.value for score in found.values()} == {None}
    assert {row["score"] for row in bench.samples(name)} == {None}


def test_a_task_without_a_judge_cannot_be_given_one(served: tuple[Bench, FakeJudge]) -> None:
    with pytest.raises(UserError, match="not known to ask a judge; those are mmvet, llava_in_the"):
        attach(None, "gqa", served[0].client)


@pytest.mark.slow
def test_as_the_pipeline_runs_it_and_goes_on_where_the_judge_failed(
    store: Store, tmp_path: Path, judge: FakeJudge, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Processes of their own; the key reaches the judge and no file."""
    monkeypatch.setattr(process, "WORKER", "tests.eval.scripted")
    for name, value in {"SCRIPT": "right", "JUDGE_KEY": "s3cret-key", "HF_HOME": "hf"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    judge.answer = lambda p, n: 403 if re.search("my answer v1_[13]", p) else replied(p, n)
    server = Judge(judge.url, "fake", "JUDGE_KEY")
    chosen = suite("paper_plus", hub.mirror(tmp_path / "m"), "llava_w mmvet", judge=server)
    made = steps(store, chosen)

    first = {a.facts["primary"]: a for a in evaluate(store, made)}
    relative, shares = first["relative"], first["score"]
    assert scores(relative)["relative"].value == pytest.approx(100 * 36 / 54, abs=0.1)
    assert scores(shares)["score"].why.startswith("2 of 5 judge calls failed (HTTP 403: 2)")
    assert ("judge_failed" in relative.facts, shares.facts["judge_failed"]) == (False, 2)
    assert f"judge=fake@{server.host}" in scores(shares)["score"].protocol
    assert set(judge.keys) == {"Bearer s3cret-key"}
    answers = [row["answer"] for row in samples(shares)]

    judge.answer, judge.asked[:] = replied, []
    models = worker_inside(monkeypatch, by_script("right"))
    take_up_again(store, made)
    again, kept = (a for a in sorted(evaluate(store, made), key=lambda a: a.path != shares.path))
    asked = [re.findall(r"my answer v1_(\d)", a["messages"][0]["content"])[-1] for a in judge.asked]
    assert sorted(asked) == ["1", "3"] and models == [], "the model is not asked again"
    assert "2 judge calls failed; asking for them again" in capsys.readouterr().out
    assert scores(again)["score"].value == pytest.approx(50.0)
    assert (again.path, again.manifest["key"]) == (shares.path, shares.manifest["key"])
    assert [row["answer"] for row in samples(again)] == answers
    assert kept.manifest == relative.manifest

    take_up_again(store, made)
    assert all(store.find(step) for step in made), "whole ones stay"
    assert capsys.readouterr().out == ""
    files = [path for path in store.root.rglob("*") if path.is_file()]
    assert not [path for path in files if b"s3cret-key" in path.read_bytes()]


def replied(prompt: str, call: int) -> Answer:
    return (LLAVA_W if "[Context]" in prompt else MMVET)(prompt, call)


def take_up_again(store: Store, made: list[Step]) -> None:
    """As a launcher does before it plans a run with these evaluations."""
    experiment = SimpleNamespace(store=store, scores=made)
    job: Any = SimpleNamespace(
        stages=("evaluate",), experiment=experiment, cfg=SimpleNamespace(dry_run=False)
    )
    reopen_unanswered(job)


# --- without one --------------------------------------------------------------------------------


def test_without_a_judge_the_benchmark_is_left_out_with_the_reason(
    store: Store, tmp_path: Path
) -> None:
    """No process is started for it, and a judge configured later is a new result."""
    chosen = suite("paper_plus", tmp_path, "llava_w mmvet")
    made = steps(store, chosen)
    for artifact in evaluate(store, made):
        record = json.loads((artifact.path / "result.json").read_text())
        assert {score["value"] for score in record["scores"]} == {None}
        assert "none is configured: set eval.judge.url" in record["scores"][0]["why"]
        assert artifact.facts == {"n": 0, "primary": record["primary"], "score": None}
    assert not (store.root / ".runs").exists()
    judge = Judge("http://127.0.0.1:9/v1", "fake", None)
    later = steps(store, suite("paper_plus", tmp_path, "llava_w mmvet", judge=judge))
    assert not {step.key for step in made} & {step.key for step in later}


def requirement(judge: Judge, mirror: Path) -> Requirement:
    return suite("paper_plus", mirror, "mmvet", judge=judge).requirements()[-1]


def test_a_judge_is_asked_for_and_not_insisted_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    none = requirement(Judge(), tmp_path)
    assert (none.met, none.fatal) == (False, False) and "none is configured" in none.found
    judge = Judge("https://user:word@judge.example/v1?key=abc", "gpt-x", "JUDGE_KEY")
    keyless = requirement(judge, tmp_path)
    assert not keyless.met and "$JUDGE_KEY, which is not set" in keyless.found
    monkeypatch.setenv("JUDGE_KEY", "s3cret")
    found = requirement(judge, tmp_path)
    assert found.met and found.found == "gpt-x at judge.example"
    chosen = suite("paper_plus", tmp_path, "mmvet", judge=judge)
    text = chosen.protocol_text(chosen.benchmarks["mmvet"])
    assert text.endswith("judge=gpt-x@judge.example")
    assert not any(word in text for word in ("s3cret", "word@", "abc"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"url": "judge.example"}, "begins with http"),
        ({"url": "http://judge.example"}, "eval.judge.model"),
        ({"tries": 0}, "eval.judge.tries=0"),
    ],
)
def test_a_wrong_judge_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        Judge(**changes)
