"""The likelihood of right answers: the loss that finetuning has on them, whatever runs beside."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from coincide.ledger.evidence import LIKELIHOOD, Samples
from coincide.models.continuation import Continuations
from coincide.models.encode import IGNORE, collate, encode_blank, model_inputs
from coincide.models.load import load_model, load_processor
from coincide.models.shared_prefix import uncached_forced
from coincide.models.template import TEMPLATES
from coincide.schema import Turn
from coincide.store import Artifact, Store
from eval.decoding import Decoding
from eval.journal import JournaledAnswer, append, read
from eval.likelihood import NO_ANSWER, NOT_RECORDED, likelihood, likelihood_scores, short_answer
from eval.request import BenchmarkJob
from eval.rules import RULES
from eval.stage import evaluate
from tests.eval.bench import ANSWERS, ROWS, adapter_step, answer, question, samples, scores, steps
from tests.eval.decoders import KINDS
from tests.eval.decoders import prompts as prompts_of
from tests.eval.inside import worker_inside
from tests.eval.test_engine import engine, make, prompts
from tests.tiny_chat import FAMILIES, make_tiny_chat


def told(artifact: Artifact) -> dict[str, Any]:
    record = json.loads((artifact.path / "result.json").read_text())
    return {score["metric"]: score for score in record["likelihood"]}


@pytest.fixture
def measured(store: Store, monkeypatch: pytest.MonkeyPatch) -> dict[str, Artifact]:
    """Three benchmarks, measured by the real model in this process."""
    worker_inside(monkeypatch)
    wanted = steps(store, "attributes presence choice", device="cpu")
    found = evaluate(store, wanted)
    return {step.config["benchmark"]: one for step, one in zip(wanted, found, strict=True)}


def test_nats_are_the_loss_of_training_on_the_answer(
    measured: dict[str, Artifact], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = store.ensure(adapter_step().needs[0]).path / "model"
    from eval.model import with_adapter

    model = with_adapter(
        load_model(base, torch.float32, "cpu"), store.ensure(adapter_step()).path / "adapter"
    )
    processor, rows = load_processor(base), samples(measured["attributes"])
    blind = [row for row in rows if row["doc_id"] % 5 == 4]  # without a picture
    assert len(rows) == ROWS and len(blind) == 4
    for row in blind:
        asked = question("attributes", row["doc_id"])
        turns = [Turn("human", asked), Turn("gpt", answer("attributes", row["doc_id"]))]
        encoded = encode_blank(turns, [], processor, TEMPLATES["tiny"], 512)
        inputs = model_inputs(collate([encoded], 0))
        labels = inputs.pop("labels")[0, 1:]
        with torch.no_grad():
            logits = model(**inputs).logits[0, :-1]
        learnt = labels != IGNORE
        loss = torch.nn.functional.cross_entropy(logits[learnt], labels[learnt])
        assert row["nats"] == pytest.approx(float(loss), abs=2e-4)
    figures = told(measured["attributes"])
    assert set(figures) == {"likelihood", "nats"}
    mean = np.mean([math.exp(-row["nats"]) for row in rows])
    assert figures["likelihood"]["value"] == pytest.approx(mean)
    assert figures["likelihood"]["n"] == ROWS and figures["likelihood"]["stderr"] > 0
    assert figures["likelihood"]["protocol"].endswith("score=likelihood of the answer per token")
    # the plain engine gives the same; accuracy and key do not know of it
    worker_inside(monkeypatch)
    [without] = steps(store, "attributes", device="cpu", likelihood=False)
    assert without.key == steps(store, "attributes", device="cpu")[0].key
    other = Store(store.root.parent / "other")
    [plain] = evaluate(other, steps(other, "attributes", device="cpu", engine="plain"))
    assert scores(plain) == scores(measured["attributes"])
    for one, same in zip(samples(plain), rows, strict=True):
        assert one["nats"] == pytest.approx(same["nats"], abs=2e-4)


def test_margins_stand_where_there_are_alternatives(measured: dict[str, Artifact]) -> None:
    for name in ("presence", "choice"):
        rows, figures = samples(measured[name]), told(measured[name])
        assert set(figures) == {"likelihood", "nats", "margin"}
        assert all(math.isfinite(row["margin"]) for row in rows)
        mean = np.mean([row["margin"] for row in rows])
        assert figures["margin"]["value"] == pytest.approx(mean)
        of_two = np.mean([1 / (1 + math.exp(-row["margin"])) for row in rows])
        assert figures["likelihood"]["value"] == pytest.approx(of_two)
        shown = Samples(measured[name].path / "samples.jsonl", LIKELIHOOD).numbers["score"]
        assert np.mean(shown) == pytest.approx(of_two), "what the report resamples"
        assert figures["likelihood"]["protocol"].endswith("against the likeliest other")
    assert not any("margin" in row for row in samples(measured["attributes"]))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "both ways"])
def test_behind_shared_prefixes_they_are_those_of_whole_prompts(kind: str) -> None:
    torch.manual_seed(0)
    network = KINDS[kind][0]().double().eval()
    asked = prompts_of(kind, [(3, 9, 3, 6), (5, 5, 5), (4,)])
    texts = [torch.tensor(ids) for ids in ((7,), (9, 11, 6), (12, 8))]
    given = [texts[: 1 + i % 3] for i in range(len(asked))]
    for budget in (100_000, 60):
        found = engine(network, budget).scored_answers(asked, given, Decoding(4, 1, ()))
        said = engine(network, budget).answers(asked, Decoding(4, 1, ()))
        assert [one.text for one in found] == said, "looking does not change the answers"
        for prompt, mine, one in zip(asked, given, found, strict=True):
            with torch.no_grad():
                alone = [uncached_forced(network, [prompt], [text], [2], 0)[0] for text in mine]
            assert one.logs == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_chat_templates_teach_what_is_looked_at(tmp_path: Path, family: str) -> None:
    """Prompt and looked-at tokens are the sequence that training sees, where the model's template
    goes on as it asks (llava_onevision's does not)."""
    model = make(make_tiny_chat(family, tmp_path), tokens=100_000)
    found = model.scored_answers(prompts(model)[:6], [["red", "a dog"]] * 6, Decoding(2, 1, ()))
    assert all(len(one.logs) == 2 and max(one.logs) < 0 for one in found)
    for text in ("red", "a dog"):
        turns = [Turn("human", "what?"), Turn("gpt", text)]
        encoded = encode_blank(turns, [], model.processor, TEMPLATES["chat"], 512)
        whole, asked = (
            encoded.input_ids.tolist(),
            model.encode(turns[:1], [], {}).input_ids.tolist(),
        )
        ids = Continuations(model.processor, TEMPLATES["chat"]).ids(text).tolist()
        assert model.processor.tokenizer.decode(ids).strip() == text
        goes_on = whole[: len(asked)] == asked
        assert goes_on == (family != "llava_onevision")
        assert not goes_on or whole[len(asked) : len(asked) + len(ids)] == ids


def test_the_right_answer_is_the_most_frequent_and_short() -> None:
    assert short_answer(["two", "2", "two"]).texts == ["two"]  # type: ignore[union-attr]
    assert short_answer([{"answer": "a"}, {"answer": "b"}, {"answer": "b"}]).texts == ["b"]  # type: ignore[union-attr]
    assert (
        short_answer("x" * 101) is None and short_answer(" ") is None and short_answer([]) is None
    )
    assert short_answer(None) is None and short_answer(3) is None


@pytest.mark.parametrize(
    ("task", "document", "right", "others"),
    [
        ("pope", {"question": "?", "answer": "Yes."}, ("yes", "Yes"), (("no", "No"),)),
        ("scienceqa_img", {"choices": ["a", "b", "c"], "answer": 1}, ("B",), (("A",), ("C",))),
        ("mmbench_en_dev_static", {"A": "x", "B": "y", "C": "nan", "answer": "A"}, ("A",),
         (("B",),)),
        ("demo_choice", {"question": "Small? A small, B large.", "answer": "b"}, ("B",),
         (("A",),)),
        ("mmmu_val", {"question_type": "open", "answer": "['6', '6.0']", "options": "[]"}, ("6",),
         ()),
        ("vqav2_val", {}, ("two",), ()),
    ],
)  # fmt: skip
def test_rules_name_the_right_answer_and_its_alternatives(
    task: str, document: dict[str, Any], right: tuple[str, ...], others: tuple[Any, ...]
) -> None:
    found = RULES[task].right(document, lambda: ["two", "two", "2"])
    assert found is not None and (found.right, found.others) == (right, others)


def test_a_judge_has_none_and_an_odd_target_none() -> None:
    assert RULES["mmvet"].right({"answer": "long"}, lambda: "long") is None
    assert RULES["pope"].right({"question": "?", "answer": "maybe"}, lambda: "maybe") is None


def test_of_several_forms_the_likeliest_counts() -> None:
    found = RULES["pope"].right({"question": "?", "answer": "no"}, lambda: "no")
    assert found is not None and found.texts == ["no", "No", "yes", "Yes"]
    nats, margin = likelihood(found, [-4.0, -1.0, -3.0, -1.5], [2, 2, 2, 2])
    assert (nats, margin) == (0.5, 0.5)


def test_figures_are_missing_unless_every_sample_has_them(tmp_path: Path) -> None:
    job = BenchmarkJob("b", "t", {"accuracy": "x"}, "accuracy", "split=test", str(tmp_path))
    row = {"doc_id": 0, "score": 1.0, "nats": 0.0}
    [whole, _] = likelihood_scores([row, {**row, "doc_id": 1, "nats": math.log(2)}], job)
    assert whole["value"] == pytest.approx(0.75) and whole["n"] == 2
    [lacking] = likelihood_scores([row, {"doc_id": 1, "score": 0.0}], job)
    assert lacking["value"] is None and lacking["why"] == NOT_RECORDED
    [few, _] = likelihood_scores([row, {**row, "doc_id": 1, "nats": None}], job)
    assert few["n"] == 1, "a long answer is left out, for every run alike"
    [mixed, _] = likelihood_scores([{**row, "margin": 1.0}, {**row, "doc_id": 1}], job)
    assert mixed["value"] == 1.0, "alternatives count where every sample has them"
    [far, *_] = likelihood_scores([{**row, "margin": -1e4}, {**row, "margin": 1e4}], job)
    assert far["value"] == pytest.approx(0.5)
    [none] = likelihood_scores([{**row, "nats": None}], job)
    assert none["value"] is None and none["why"] == NO_ANSWER


def test_the_journal_keeps_them_and_reads_lines_of_before(tmp_path: Path) -> None:
    found = {
        0: JournaledAnswer("a", "p", (0.5, -1.0)),
        1: JournaledAnswer("b", None, ()),
        2: JournaledAnswer("c", "q"),
    }
    append(tmp_path, 0, found)
    assert read(tmp_path) == found
    lines = (tmp_path / "answers-0.jsonl").read_text().splitlines()
    assert "likelihood" not in lines[2], "as lines were before"
    (tmp_path / "answers-0.jsonl").write_text(lines[0].replace("0.5", "0.4") + "\n")
    assert read(tmp_path) == {}, "a changed figure does not count"


def test_answers_that_are_taken_over_take_theirs_along(
    measured: dict[str, Artifact], store: Store
) -> None:
    [again] = evaluate(store, steps(store, "presence", **{"benchmarks.presence.scale": 100}))
    assert again.facts["reused"] == ROWS
    assert told(again)["likelihood"]["value"] == told(measured["presence"])["likelihood"]["value"]
    assert ANSWERS["presence"][0] == "yes"
