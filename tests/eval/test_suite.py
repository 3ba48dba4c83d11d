"""Suites compose from YAML, refuse what is wrong, and are planned without heavy imports."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coincide.schema import UserError
from coincide.store import Step, Store
from eval.stage import eval_steps
from eval.suite import TASKS, Benchmark, Suite
from tests.eval.bench import ANSWERS, TinyModel, adapter_step, data_step, suite


def keys(suite: Suite, model: TinyModel | None = None, adapter: int = 0) -> list[str]:
    model = model or TinyModel()
    lora = adapter_step(adapter)
    made = eval_steps(suite, model=model, base=model.step(), adapter=lora, data=data_step())
    return [step.key for step in made]


def only(name: str, **changes: object) -> Suite:
    return Suite("one", {name: replace(suite().benchmarks[name], **changes)})


def test_demo_suite_composes() -> None:
    composed = suite()
    assert composed.name == "demo"
    assert {b.name for b in composed.benchmarks.values()} == set(ANSWERS)
    assert list(composed.benchmarks["presence"].metrics) == [
        "accuracy", "f1", "precision", "recall", "yes_ratio",
    ]  # fmt: skip
    assert composed.benchmarks["presence"].chance == 0.5


def test_one_step_per_benchmark_with_base_adapter_and_data() -> None:
    base, lora, data = TinyModel().step(), adapter_step(), data_step()
    adapted = eval_steps(suite(), model=TinyModel(), base=base, adapter=lora, data=data)
    alone = eval_steps(suite(), model=TinyModel(), base=base, adapter=None, data=data)
    assert [s.config["benchmark"] for s in adapted] == list(ANSWERS)
    assert adapted[0].needs == (base, lora, data)
    assert alone[0].needs == (base, data)
    assert alone[0].key != adapted[0].key


def test_speed_is_outside_the_key_and_the_answer_inside() -> None:
    same = keys(suite())
    assert keys(suite(batch_size=1, device="cuda", threads=7)) == same
    assert not set(keys(suite(dtype="bfloat16"))) & set(same)
    assert not set(keys(suite(), adapter=1)) & set(same)
    assert not set(keys(suite(), replace(TinyModel(), template="vicuna_v1"))) & set(same)


@pytest.mark.parametrize(
    "change",
    [{"limit": 5}, {"generation": {"max_new_tokens": 1}}, {"metrics": {"accuracy": "f1"}},
     {"protocol": {"split": "val"}}],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_whatever_changes_a_score_changes_its_key(change: dict[str, object]) -> None:
    assert keys(only("counting", **change)) != keys(only("counting"))


@pytest.mark.parametrize(
    ("one", "others"),
    [
        ({"temperature": 0}, [{"temperature": 0.0}, {"temperature": False}]),
        ({"do_sample": False}, [{"do_sample": 0}, {"do_sample": 0.0}]),
        ({"max_new_tokens": 16, "num_beams": 1}, [{"num_beams": 1.0, "max_new_tokens": 16.0}]),
        ({"until": ["a"]}, [{"until": ("a",)}]),
    ],
)
def test_settings_of_equal_value_have_one_key(one: dict[str, Any], others: list[Any]) -> None:
    same = keys(only("counting", generation=one))
    assert all(keys(only("counting", generation=other)) == same for other in others)
    assert same != keys(only("counting"))
    assert keys(only("counting", scale=100.0, where={"a": 1.0})) == keys(
        only("counting", scale=100, where={"a": 1})
    )


def test_reading_a_score_otherwise_keeps_its_key() -> None:
    assert keys(only("counting", chance=0.1, range=(0.0, 2.0))) == keys(only("counting"))


def test_an_edited_metric_is_a_new_result(tmp_path: Path) -> None:
    copy = tmp_path / "demo"
    shutil.copytree(TASKS / "demo", copy, ignore=shutil.ignore_patterns("__pycache__"))
    moved = only("counting", tasks_dir=str(copy))
    assert keys(moved) == keys(only("counting"))
    (copy / "utils.py").write_text((copy / "utils.py").read_text() + "\n# edited\n")
    assert keys(moved) != keys(only("counting"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"primary": "bleu"}, "the choices are its metrics, accuracy"),
        ({"limit": 0}, "expected a count of samples >= 1"),
        ({"limit": 0.5}, "expected a count of samples >= 1"),
        ({"limit": True}, "expected a count of samples >= 1"),
        ({"chance": 1.0}, "low <= chance < high"),
        ({"task": "demo_smell"}, "demo_attributes, demo_charts"),
        ({"parts": "median"}, "the choices are mean, judged, letters"),
        ({"data": {}}, "either data, files of the data artifact, or dataset"),
    ],
)
def test_a_wrong_benchmark_is_refused(changes: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        keys(only("counting", **changes))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dtype": "int8"}, "float32, bfloat16, float16"),
        ({"batch_size": 0}, "expected an int >= 1"),
        ({"benchmarks": {}}, "at least one benchmark"),
        ({"processes": 0}, "expected auto or an int >= 1"),
    ],
)
def test_a_wrong_suite_is_refused(changes: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        replace(suite(), **changes)


def test_two_benchmarks_of_one_name_are_refused() -> None:
    one: Benchmark = suite().benchmarks["counting"]
    with pytest.raises(UserError, match="share a name"):
        Suite("twice", {"a": one, "b": one})


def test_planning_imports_neither_torch_nor_lmms_eval() -> None:
    heavy = "{'torch', 'lmms_eval', 'transformers', 'datasets', 'peft'}"
    code = f"import sys, eval.stage, eval.suite; print({heavy} & set(sys.modules))"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.stdout.strip() == "set()", done.stderr


def test_data_without_the_benchmark_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    empty = Step("data", "empty", 1, {}, lambda build: None)
    for step in (TinyModel().step(), empty):
        store.ensure(step)
    made = eval_steps(suite(), model=TinyModel(), base=TinyModel().step(), adapter=None, data=empty)
    with pytest.raises(UserError, match="reads benchmarks/attributes/test"):
        store.ensure(made[0])
