"""What is asked, and where an answer ends: as the task's own file says, or as LLaVA-1.5 asks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lmms_eval.tasks import TaskManager
from lmms_eval.utils import load_yaml_config

from coincide.schema import UserError
from coincide.store import Store
from eval.benchmarks_doc import PAGE, render
from eval.decoding import Decoding
from eval.loading import load_tasks, stated_protocol
from eval.request import BenchmarkJob
from eval.suite import PROMPTS, Benchmark
from tests.eval import hub
from tests.eval.bench import make_parquet
from tests.eval.bench import suite as demo
from tests.eval.real import NAMES, benchmark, job, steps, suite

LETTER = "Answer with the option's letter from the given choices directly."
SHORT = "Answer the question using a single word or phrase."
UNANSWERABLE = "When the provided information is insufficient, respond with 'Unanswerable'."
CHANGED = [name for name in NAMES if benchmark(name).llava_1_5]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, str], Any]]:
    """(choice of prompts, benchmark) -> the loaded task."""
    root = tmp_path_factory.mktemp("prompts")
    mirror, found = hub.mirror(root / "mirror"), {}
    with hub.offline(root / "cache"), pytest.MonkeyPatch.context() as patch:
        patch.chdir(mirror)
        for choice in PROMPTS:
            names = NAMES if choice == "lmms_eval" else CHANGED
            asked = {name: benchmark(name).asked_as(choice) for name in names}
            jobs = [replace(job(b, root / n), **b.stated) for n, b in asked.items()]
            _, loaded = load_tasks(jobs, root / choice)
            found |= {(choice, name): task for name, task in loaded.items()}
        yield found


def asked(task: Any, **changes: Any) -> str:
    """The text of the first document, with other columns."""
    document = {**task.eval_docs[0], **changes}
    [message] = task.doc_to_messages(document)
    return "".join(part["text"] for part in message["content"] if part["type"] == "text")


def test_an_answer_ends_where_the_tasks_own_file_says(tasks: dict[tuple[str, str], Any]) -> None:
    """lmms-eval would end 13 of these at the first blank line."""
    index, silent = hub.task_index(TaskManager), 0
    for name in NAMES:
        written = load_yaml_config(index[benchmark(name).task]["yaml_path"], mode="simple")
        until = (written.get("generation_kwargs") or {}).get("until")
        silent += until is None
        used = tasks["lmms_eval", name].config.generation_kwargs
        assert list(Decoding.from_settings(used).until) == (until or []), name
        assert Decoding.from_settings(used).until == tuple(benchmark(name).stop), name
        assert Decoding.from_settings(used).max_new_tokens == benchmark(name).tokens, name
    assert silent == 13
    steps = "First, I look.\n\nTherefore the answer is 7."
    mmvet = Decoding.from_settings(tasks["lmms_eval", "mmvet"].config.generation_kwargs)
    assert mmvet.cut(steps) == steps and mmvet.cut("\n\n7") == "7"


def test_mmbench_is_asked_in_either_way(tasks: dict[tuple[str, str], Any]) -> None:
    options = "A. red\nB. green\nC. blue\nD. black"
    question = "Which colour is thing 0?"
    lines = f"{question} There are several options:\n{options}\n\n"
    chinese = "请直接使用所提供的选项字母作为答案回答。"
    for name, said, published in (
        ("mmbench_en", LETTER, LETTER), ("mmbench_cn", chinese, "请直接回答选项字母。"),
    ):  # fmt: skip
        ours, theirs = tasks["lmms_eval", name], tasks["llava_1_5", name]
        assert asked(ours) == f"Look closely. {lines}{said}"
        assert asked(theirs) == f"Look closely.\n{question}\n{options}\n{published}"
        for hint in ("nan", "NaN", "", None, float("nan")):
            assert asked(ours, hint=hint) == f"{lines}{said}"
            assert asked(theirs, hint=hint) == f"{question}\n{options}\n{published}"
        two = f"{question}\nA. red\nB. green\n{published}"
        assert asked(theirs, hint="nan", C="nan", D="nan") == two
    scored = tasks["llava_1_5", "mmbench_cn"].aggregation()["gpt_eval_score"]
    assert scored.__name__ == "accuracy", "static as with the other prompt"


def test_the_others_of_llava_1_5(tasks: dict[tuple[str, str], Any]) -> None:
    assert CHANGED == ["mmbench_cn", "mmbench_en", "mmvet", "scienceqa_img", "vizwiz"]
    vizwiz = {"question": "What does the IKEA label say?"}
    assert asked(tasks["lmms_eval", "vizwiz"], **vizwiz).startswith("What does the ikea label")
    assert asked(tasks["llava_1_5", "vizwiz"], **vizwiz) == (
        f"What does the IKEA label say?\n{UNANSWERABLE}\n{SHORT}"
    )
    science = tasks["llava_1_5", "scienceqa_img"]
    options = "Options: (A) iron (B) wood (C) glass"
    assert asked(science) == f"Context: N/A\nQuestion: Which 0?\n{options}\n{LETTER}"
    assert asked(science, hint="Look.").startswith("Context: Look.\nQuestion: Which 0?\n")
    assert asked(tasks["llava_1_5", "mmvet"]) == "What is x0?"


def test_the_page_of_benchmarks_is_up_to_date(tasks: dict[tuple[str, str], Any]) -> None:
    asked = {(choice, name): benchmark(name).asked_as(choice) for choice, name in tasks}
    written = PAGE.read_text(encoding="utf-8")
    assert written == render(asked, tasks), "run: python -m eval.benchmarks_doc"


def test_the_label_says_what_is_asked_and_the_key_holds_it(tmp_path: Path, store: Store) -> None:
    mirror = tmp_path / "mirror"
    ours, theirs = (suite("paper", mirror, prompts=choice) for choice in PROMPTS)
    changed = set()
    for a, b in zip(steps(store, ours), steps(store, theirs), strict=True):
        if a.key != b.key:
            changed.add(a.config["benchmark"])
            assert a.config["protocol"]["prompt"] != b.config["protocol"]["prompt"]
        else:
            assert a.note == b.note
        assert "stop=" in a.note and "tokens=" in a.note
    assert changed == set(CHANGED) - {"mmvet"}, "mmvet is not in the paper's suite"
    with pytest.raises(UserError, match=r"eval\.prompts='llava'; the choices are lmms_eval, llava"):
        replace(ours, prompts="llava")
    with pytest.raises(UserError, match="expected overlay, a YAML below eval/tasks, and prompt"):
        replace(benchmark("mme"), llava_1_5={"overlay": "x.yaml"})


def test_a_label_that_is_not_true_is_refused(tmp_path: Path) -> None:
    made = own(tmp_path, "max_new_tokens: 9\n  until: ['##']")
    assert load(made, tmp_path, stop=("##",), tokens=9)[1] == "split=test"
    assert load(made, tmp_path)[1] == "split=test; stop='##'", "said where nothing is stated"
    with pytest.raises(UserError, match=r"states \{'tokens': 16\}, and task own .* has .*9"):
        load(made, tmp_path, stop=("##",), tokens=16)
    measured = replace(benchmark("mme"), generation={"max_new_tokens": 7, "until": "##"})
    assert measured.protocol_text.endswith("stop='##'; tokens=7")


@pytest.mark.parametrize(
    ("written", "until"),
    [("max_new_tokens: 4", ()), ("until: null", ()), ("until: [\"\\n\\n\"]", ("\n\n",))],
)  # fmt: skip
def test_an_own_task_ends_answers_where_it_says(
    written: str, until: tuple[str, ...], tmp_path: Path
) -> None:
    made = own(tmp_path, written)
    task, _ = load(made, tmp_path)
    assert Decoding.from_settings(task.config.generation_kwargs).until == until
    included = tmp_path / "tasks" / "child.yaml"
    included.write_text("include: own.yaml\ntask: child\n")
    task, _ = load(replace(made, task="child"), tmp_path)
    assert Decoding.from_settings(task.config.generation_kwargs).until == until
    task, _ = load(replace(made, generation={"max_new_tokens": 3}), tmp_path)
    assert Decoding.from_settings(task.config.generation_kwargs) == Decoding(3, 1, ())
    assert ("stop" in key_of(made).answer_config()) == ("until" not in written)


def test_settings_that_would_change_answers_are_refused() -> None:
    for settings in ({"temperature": 0.7}, {"do_sample": True}):
        with pytest.raises(UserError, match="ask for sampling"):
            Decoding.from_settings(settings)
    for settings in ({"max_gen_toks": 64}, {"repetition_penalty": 1.2}, {"stop": ["x"]}):
        with pytest.raises(UserError, match="change answers and are not supported"):
            Decoding.from_settings(settings)
    neutral = {"repetition_penalty": 1.0, "top_p": 1.0, "image_aspect_ratio": "original"}
    assert Decoding.from_settings({"temperature": 0.2, "do_sample": False, **neutral}) == Decoding(
        128, 1, ()
    )


def test_the_demo_is_asked_as_before() -> None:
    """Its tasks say ``until: []`` themselves, so nothing about them is renamed."""
    for measured in demo().asked:
        assert not {"stop", "decoding"} & set(measured.answer_config())


OWN = """
task: own
dataset_path: parquet
dataset_kwargs: {{data_files: {{test: none.parquet}}}}
test_split: test
output_type: generate_until
doc_to_text: question
doc_to_target: answer
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
generation_kwargs:
  {}
"""


def own(folder: Path, generation: str) -> BenchmarkJob:
    """A task of one's own with these ``generation_kwargs``."""
    (folder / "tasks").mkdir(exist_ok=True)
    (folder / "tasks" / "own.yaml").write_text(OWN.format(generation))
    make_parquet(folder / "own.parquet", "counting")
    return BenchmarkJob(
        "own", "own", {"accuracy": "exact_match"}, "accuracy", "split=test", str(folder),
        str(folder / "tasks"), {"test": str(folder / "own.parquet")},
    )  # fmt: skip


def key_of(made: BenchmarkJob) -> Benchmark:
    return Benchmark(
        made.name, made.task, made.metrics, made.primary, {}, tasks_dir=made.tasks_dir,
        data=made.data_files,
    )  # fmt: skip


def load(made: BenchmarkJob, folder: Path, **stated: Any) -> tuple[Any, str]:
    wanted = replace(made, **stated)
    with hub.offline(folder / "cache"):
        _, loaded = load_tasks([wanted], folder / "overlays")
    return loaded["own"], stated_protocol(loaded["own"], wanted)
