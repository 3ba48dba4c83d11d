"""Answers of before are used where the model would be asked the same again, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from coincide.store import Artifact, Store
from eval.kept import digest
from eval.known import Known
from eval.stage import evaluate
from tests.eval.bench import ROWS, samples, scores, steps
from tests.eval.inside import worker_inside


def answer(name: str, document: dict[str, Any], number: int) -> str:
    return str(document["answer"]) if number < 13 else "?"


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The benchmarks of each model that was made."""
    return worker_inside(monkeypatch, answer)


def measure(store: Store, adapter: int = 0, name: str = "attributes", **changes: Any) -> Artifact:
    """The evaluation of one benchmark with other fields of it, or of the suite."""
    own = {k if k == "dtype" else f"benchmarks.{name}.{k}": v for k, v in changes.items()}
    [artifact] = evaluate(store, steps(store, name, adapter=adapter, **own))
    return artifact


def test_where_only_the_scoring_changed_the_model_is_not_asked(
    store: Store, models: list[str]
) -> None:
    first = measure(store)
    assert models == ["attributes"] and "reused" not in first.facts
    for change in (
        {"protocol.scoring": "another rule"},
        {"scale": 100},
        {"metrics": "{share: exact_match}", "primary": "share"},
        {"generation": "{max_new_tokens: 16, temperature: 0}"},  # as the task has it
    ):
        again = measure(store, **change)
        assert again.path != first.path and again.facts["reused"] == ROWS
        told = [(row["prompt"], row["answer"]) for row in samples(again)]
        assert told == [(row["prompt"], row["answer"]) for row in samples(first)]
    few = measure(store, limit=5)
    assert few.facts["reused"] == few.facts["n"] == 5
    assert models == ["attributes"]
    assert scores(measure(store, scale=100))["accuracy"].value == 65.0
    assert scores(measure(store, **{"protocol.scoring": "b"}))["accuracy"].value == 0.65


def test_where_anything_else_changed_it_is(store: Store, models: list[str]) -> None:
    measure(store, limit=5)
    changes: list[dict[str, Any]] = [
        {"generation": "{max_new_tokens: 3}"},
        {"generation": "{max_new_tokens: 16, until: [x]}"},
        {"dtype": "bfloat16"},
        {"adapter": 1},
        {},  # more documents
        {"name": "counting"},
    ]
    for number, change in enumerate(changes):
        assert "reused" not in measure(store, **change).facts
        assert len(models) == number + 2, change
    for path in (store.root / "eval").glob("attributes-*/samples.jsonl"):
        path.write_text(path.read_text().replace('"answer"', '"answex"'))
    assert "reused" not in measure(store, scale=100).facts


def test_the_same_prompt_twice_keeps_both_answers() -> None:
    """In half precision the neighbours in a batch may tell."""
    twice = Known({"p": {3: "two", 7: "2"}})
    assert [twice.answer("p", number) for number in (3, 7, 9)] == ["two", "2", "two"]


def test_what_the_model_is_given_is_turns_pixels_and_how_it_generates() -> None:
    def asked(text: str = "what", size: int = 8, grey: int = 0, **settings: Any) -> str:
        picture = {"type": "image", "url": Image.new("RGB", (size, 8), (grey, 0, 0))}
        return digest(
            [{"role": "user", "content": [picture, {"type": "text", "text": text}]}],
            {"max_new_tokens": 16, **settings},
        )

    assert asked() == asked(temperature=0.0, until=[]) == asked(until=None)
    others = [
        asked("whet"), asked(size=9), asked(grey=1), asked(max_new_tokens=17), asked(num_beams=2),
        asked(until=["x"]),
    ]  # fmt: skip
    assert len({asked(), *others}) == 7
