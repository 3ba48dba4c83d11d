"""lmms-eval's own tasks, over data of the hub's schema, by models that are right as often as known.

An oracle gets the full score of every metric; one that is right on the first few documents gets
what is worked out by hand here.
"""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from coincide.ledger.collect import remarks
from coincide.ledger.result import Score
from coincide.ops.resample import ratio_of_sums, resampling_units
from coincide.store import Store
from eval.documents import TaskDocuments
from eval.judge import Judge
from eval.replies import FORMS, forms, logged_samples, score
from eval.rules import RULES
from eval.scores import read, scores
from tests.eval import hub
from tests.eval.bench import CONF
from tests.eval.real import LOCAL, NAMES, Bench, benchmark, suite, values
from tests.eval.scripted import by_script

FULL = {"mme": {"perception": 400.0, "cognition": 200.0}}
"""What an oracle gets where it is not 100: two categories of perception and one of cognition."""

FIRST = {
    # right on the first 4 of 10 documents, whose chart questions alternate between the two splits
    **{name: {"accuracy": 40.0} for name in LOCAL},
    "docvqa": {"anls": 40.0},
    "infovqa": {"anls": 40.0},
    "chartqa": {"accuracy": 40.0, "human": 40.0, "augmented": 40.0},
    # 4 of 24
    "mmmu": {"accuracy": 100 / 6},
    # 12 documents, yes at odd places: TP 2, FN 4, and the 4 wrong no: FP 4
    "pope": {"f1": 100 / 3, "accuracy": 100 / 3, "precision": 100 / 3, "recall": 100 / 3},
    # 3 pictures of existence, of which both questions of 2 are right: (200 + 200 + 0) / 3
    "mme": {"perception": 400 / 3, "cognition": 0.0},
    # 4 questions in 4, 2, 1 and 1 rotations: the first one whole
    "mmbench_en": {"accuracy": 25.0},
    "mmbench_cn": {"accuracy": 25.0},
    # every fourth of 8 is a video, which is not asked: 4 of 6
    "seed": {"accuracy": 200 / 3},
}


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hub.mirror(tmp_path_factory.mktemp("mirror"))


@pytest.fixture(scope="module")
def bench(mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """All local benchmarks, loaded where the names of datasets are paths to them."""
    with hub.offline(tmp_path_factory.mktemp("cache")), pytest.MonkeyPatch.context() as patch:
        patch.chdir(mirror)
        yield Bench(tmp_path_factory.mktemp("out"), LOCAL, Judge())


@pytest.mark.parametrize("name", LOCAL)
def test_an_oracle_gets_everything(name: str, bench: Bench) -> None:
    found = bench.run(name, by_script("right"))
    assert list(found) == list(benchmark(name).metrics)
    assert values(found) == FULL.get(name, dict.fromkeys(found, 100.0))
    assert {score.stderr for score in found.values()} == {0.0}


@pytest.mark.parametrize("name", LOCAL)
def test_right_on_the_first_four(name: str, bench: Bench) -> None:
    """And samples add up to the primary metric: the report recomputes it over draws of them."""
    found = bench.run(name, by_script("4"))
    assert values(found) == pytest.approx(FIRST[name])
    low, high = benchmark(name).range
    assert all(low <= score.value <= high for score in found.values() if score.value is not None)
    primary, rows = found[benchmark(name).primary], bench.samples(name)
    assert [row["doc_id"] for row in rows] == sorted(row["doc_id"] for row in rows)
    units = resampling_units(rows)
    [again] = ratio_of_sums(units.num, units.den, units.strata)
    assert again == pytest.approx(primary.value, rel=1e-4)
    assert primary.stderr is not None and primary.stderr > 0


def test_chance_is_a_coins(bench: Bench) -> None:
    """Not that of one who always says yes, who has F1 66.7 in POPE and 500 in MME."""
    from lmms_eval.tasks.mme.utils import eval_type_dict

    def coin(name: str, document: dict[str, Any], doc_id: int) -> str:
        return "yes" if doc_id // 2 % 2 else "no"  # independent of the answer, and of the pair

    assert values(bench.run("pope", coin))["f1"] == benchmark("pope").chance == 50.0
    assert values(bench.run("pope", lambda *_: "yes"))["f1"] == pytest.approx(200 / 3)
    always = values(bench.run("mme", lambda *_: "yes"))["perception"]
    assert always == 50 * 2, "of two categories: no pair is right"
    accuracy, both = 50, 25
    assert benchmark("mme").chance == (accuracy + both) * len(eval_type_dict["Perception"])


def test_standard_errors(bench: Bench) -> None:
    """A share of n pictures: √(p (1 - p) / (n - 1)); ratios: of their deviations by unit."""
    vizwiz = bench.run("vizwiz", by_script("4"))["accuracy"]
    assert vizwiz.stderr == pytest.approx(100 * math.sqrt(0.4 * 0.6 / 9))
    # ten questions about three pictures, of which the first has 2 of 4 right, the others 1 of 3
    gqa = bench.run("gqa", by_script("4"))["accuracy"]
    deviations = [2 - 0.4 * 4, 1 - 0.4 * 3, 1 - 0.4 * 3]
    of_pictures = math.sqrt(3 / 2 * sum((d / 10) ** 2 for d in deviations))
    assert gqa.stderr == pytest.approx(100 * of_pictures)
    pope = bench.run("pope", by_script("4"))
    assert pope["accuracy"].stderr == pytest.approx(100 * math.sqrt(1 / 3 * 2 / 3 / 11))
    assert pope["f1"].stderr != pope["accuracy"].stderr
    # three pictures with 200, 200 and 0, whose variance is (80000 / 9) * 3 / 2
    mme = bench.run("mme", by_script("4"))["perception"]
    assert mme.stderr == pytest.approx(math.sqrt(80000 / 9 * 3 / 2 / 3))
    # four questions, one right in all its rotations
    mmbench = bench.run("mmbench_en", by_script("4"))["accuracy"]
    assert mmbench.stderr == pytest.approx(100 * math.sqrt(0.25 * 0.75 / 3))


def test_what_is_drawn_anew_is_the_picture(bench: Bench) -> None:
    """By the column that names it, or by its content; what a score counts as a whole is larger."""

    def found(name: str) -> tuple[set[str], dict[str, Any]]:
        bench.run(name, by_script("4"))
        record = json.loads((Path(bench.jobs[name].output) / "result.json").read_text())
        return {row["unit"] for row in bench.samples(name)}, record

    units, record = found("gqa")
    assert units == {"n0", "n1", "n2"}
    assert (record["unit"], record["units"]) == ("picture", 3)
    units, record = found("pope")
    assert len(units) == record["units"] == 12 and all(u.startswith("COCO_") for u in units)
    units, record = found("vizwiz")
    assert len(units) == 10 and all(re.fullmatch("[0-9a-f]{16}", u) for u in units)
    units, record = found("mme")
    assert record["unit"] == "picture with its two questions"
    assert record["units"] == 5, "of perception; those of cognition have no part in it"
    units, record = found("mmbench_en")
    assert (units, record["unit"]) == ({"7", "8", "9", "10"}, "question with its rotations")


def test_one_wrong_rotation_loses_the_question(bench: Bench) -> None:
    def reply(name: str, doc: dict[str, Any], i: int) -> str:
        return (hub.wrong if i == 2 else hub.right_answer)(name, doc)

    assert values(bench.run("mmbench_en", reply)) == {"accuracy": 75.0}
    assert [row["score"] for row in bench.samples("mmbench_en")] == [0.0] * 4 + [100.0] * 4


def test_half_a_pair(bench: Bench) -> None:
    """MME: one of two questions about a picture gives 50 of its 200 points."""
    found = bench.run("mme", by_script("9"))  # existence whole; OCR: one pair and a half
    assert values(found) == {"perception": 200 + (200 + 50) / 2, "cognition": 0.0}


def test_unreadable_answers_are_guessed_each_by_itself(bench: Bench) -> None:
    """MMMU guesses a letter then; whichever order the documents come in, it is the same one."""
    first = bench.run("mmmu", lambda name, doc, i: "?")
    rows = bench.samples("mmmu")
    assert 0 < first["accuracy"].value < 100
    task = bench.tasks["mmmu"]
    guessed = [
        task.process_results(task.eval_docs[i], ["?"])["mmmu_acc"]["parsed_pred"]
        for i in reversed(range(len(rows)))
    ]
    bench.run("mmmu", lambda name, doc, i: "?" if i > 5 else hub.right_answer(name, doc))
    assert [row["score"] for row in bench.samples("mmmu")][6:] == [r["score"] for r in rows][6:]
    assert len({str(guess) for guess in guessed}) > 2, "not one guess for all"


def test_every_unanswered_positive_is_a_miss(bench: Bench) -> None:
    """POPE, one yes and eleven unreadable replies: TP 1, FN 5; lmms-eval counts no FN at all."""
    found = bench.run("pope", lambda name, doc, i: "yes" if i == 1 else "?????")
    assert values(found) == pytest.approx(
        {"f1": 100 * 2 / 7, "accuracy": 100 / 12, "precision": 100.0, "recall": 100 / 6}
    )
    assert found["f1"].lmms_eval == 100.0 and found["recall"].lmms_eval == 100.0
    assert found["accuracy"].lmms_eval is None and found["f1"].readable == 1 / 12
    assert found["f1"].stderr and found["recall"].stderr
    rows = bench.samples("pope")
    assert [row["read_as"] for row in rows[:3]] == [None, "yes", None]
    assert rows[0]["unreadable"] == "empty" and "unreadable" not in rows[1]


def test_nothing_is_divided_by_nothing(bench: Bench) -> None:
    found = bench.run("pope", lambda *_: "no")
    assert found["precision"].value is None and "read as yes" in found["precision"].why
    assert found["precision"].lmms_eval == 0.0
    assert values(found)["f1"] == values(found)["recall"] == 0.0
    job = replace(bench.jobs["seed"], metrics={"accuracy": "seed_image", "video": "seed_video"})
    strict, _ = score(job, bench.tasks["seed"], ["A"] * len(bench.tasks["seed"].eval_docs))
    assert strict.value == pytest.approx(100 / 3)
    samples = logged_samples(bench.tasks["seed"], ["A"] * len(bench.tasks["seed"].eval_docs))
    reads = read(samples, job, lambda *_: None)
    video = scores(samples, bench.tasks["seed"].aggregation(), job, "", reads)[1]
    assert video["value"] is None and "ZeroDivisionError" in video["why"]


def test_accidents_are_no_score(bench: Bench) -> None:
    """Letters within words; beside it stands what lmms-eval makes of them."""
    both = bench.run(
        "seed", lambda name, doc, i: {"B": "Both", "A": "Another"}.get(doc["answer"], "?")
    )
    assert both["accuracy"].value == 0.0 and both["accuracy"].lmms_eval == pytest.approx(200 / 3)
    snow = bench.run("mme", lambda name, doc, i: "Yes" if doc["answer"] == "Yes" else "Snow")
    assert values(snow)["perception"] == 50 * 2 and snow["perception"].lmms_eval == 400.0
    world = bench.run("realworldqa", lambda name, doc, i: "Both" if doc["answer"] == "B" else "-")
    assert world["accuracy"].value == 0.0 and world["accuracy"].lmms_eval == 20.0
    blank = bench.run("docvqa", lambda name, doc, i: "x" + " " * 40 + "y")
    assert blank["anls"].value == 0.0 and (blank["anls"].lmms_eval or 0.0) > 50


STRICT = {
    # the forms in their order: bare, x., lower, (X), X. text, text, sentence
    **{name: [100] * 6 + [0] for name in "vqav2 gqa vizwiz textvqa textvqa_no_ocr".split()},
    "scienceqa_img": [100, 100, 100, 0, 100, 0, 0],
    "pope": [100] * 7,
    "mme": [400] * 7,
    **{name: [100, 100, 0, 100, 100, 100, 100] for name in ("mmbench_en", "mmbench_cn")},
    "seed": [100, 100, 100, 0, 100, 0, 0],
    "ai2d": [100, 100, 100, 100, 100, 0, 0],
    "chartqa": [100, 40, 100, 100, 100, 100, 0],
    **{name: [100, 80, 100, 100, 100, 100, 52] for name in ("docvqa", "infovqa")},
    "realworldqa": [100, 100, 40, 100, 100, 40, 60],
    "mmmu": [100, 100, None, 100, 100, None, 100],  # None: letters are guessed
}


@pytest.mark.parametrize("name", LOCAL)
def test_which_forms_count(name: str, bench: Bench) -> None:
    found = forms(bench.jobs[name], bench.tasks[name])
    assert list(found["lenient"].values()) == pytest.approx(
        [FULL.get(name, {}).get("perception", 100)] * 7
    )
    strict = dict(zip(FORMS, STRICT[name], strict=True))
    assert {f: v for f, v in found["strict"].items() if strict[f] is not None} == pytest.approx(
        {f: v for f, v in strict.items() if v is not None}, abs=0.5
    )
    for form, value in found["strict"].items():
        assert found["read"][form] == 1.0 or (value or 0.0) < found["lenient"][form], form


@pytest.mark.parametrize("name", NAMES)
def test_the_protocol_names_the_rule(name: str) -> None:
    assert benchmark(name).protocol["scoring"] == RULES[benchmark(name).task].said


@pytest.mark.parametrize("name", LOCAL)
def test_wrong_and_empty_replies_are_right_in_no_reading(name: str, bench: Bench) -> None:
    for reply in ("", "zebra crossing"):
        task = bench.tasks[name]
        strict, lenient = score(bench.jobs[name], task, [reply] * len(task.eval_docs))
        assert lenient.value == 0.0 or (reply and name == "pope")
        assert strict.value == 0.0 or name in ("mmmu",) or (reply and name == "pope")
        assert "scoring=lenient" in lenient.protocol and lenient.protocol != strict.protocol
        assert reply or strict.readable == 0.0


def test_prompts_are_the_tasks_own(bench: Bench) -> None:
    def prompt(name: str) -> str:
        bench.run(name, by_script("right"))
        content = bench.model.prompts[0][2][0]["content"]
        return "".join(part["text"] for part in content if part["type"] == "text")

    short = "Answer the question using a single word or phrase."
    assert prompt("vqav2") == f"What is thing 0?\n{short}"
    assert prompt("textvqa_no_ocr") == f"What is sign 0?\n{short}"
    assert prompt("textvqa") == f"What is sign 0?\nReference OCR token: NOKIA, N0\n{short}"
    assert prompt("mmbench_cn").endswith("\n请直接使用所提供的选项字母作为答案回答。")
    assert prompt("pope") == f"Is there a thing 0?\n{short}"
    assert "what is it?\nA. iron\nB. wood\nC." in prompt("mmmu")
    kinds = [part["type"] for part in bench.model.prompts[0][2][0]["content"]]
    assert kinds == ["text", "image", "text", "image", "text"]


def test_pictures_that_mmmu_asks_in_another_order_are_counted(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, questions = bench.tasks["mmmu"], {
        "Compare <image 1> with <image 2>.": False,
        "Compare <image 2> with <image 1>.": True,
        "Is <image 1> like <image 1> or <image 2>?": True,
        "What is it?": False,
    }  # fmt: skip
    table = task.eval_docs.table.select(range(len(questions)))
    given = table.remove_columns(["question", "options"]).add_column("question", [*questions])
    given = given.add_column("options", ["['a', 'b']"] * len(questions))
    for split in (task.dataset, task.dataset_no_image):
        monkeypatch.setitem(split, "validation", TaskDocuments(given, "mmmu"))

    def shown(i: int) -> list[Any]:
        [message] = task.doc_to_messages(task.eval_docs[i])
        return [part.get("text", part.get("url")) for part in message["content"]]

    of = task.eval_docs[1]
    assert shown(1)[:4] == ["Compare", of["image_1"], "with", of["image_2"]], "swapped"
    assert shown(2)[-1].startswith("?") and "or" not in shown(2), "text is lost"
    bench.run("mmmu", by_script("right"))
    assert [row["pictures_moved"] for row in bench.samples("mmmu")] == [*questions.values()]

    place, output = tmp_path / "eval" / "mmmu", Path(bench.jobs["mmmu"].output)
    shutil.copytree(output, place)
    store, run = Store(tmp_path), [Score("mmmu", "accuracy", 1.0, 4, samples="eval/mmmu")]
    [said] = remarks(store, run)
    assert said.startswith("mmmu: the questions of 2 of 4 documents name their pictures out of")
    record = json.loads((place / "result.json").read_text())
    assert record.pop("pictures_moved") == 2
    (place / "result.json").write_text(json.dumps(record))
    assert remarks(store, run) == [], "of an older artifact nothing is known"
    bench.run("pope", by_script("right"))
    assert not any("pictures_moved" in row for row in bench.samples("pope"))


def test_targets_are_readable(bench: Bench) -> None:
    for name in ("vqav2", "vizwiz", "textvqa"):
        bench.run(name, by_script("right"))
        assert bench.samples(name)[0]["target"] == "red | something else", name


def test_documents_that_do_not_match_are_not_asked(bench: Bench) -> None:
    bench.run("seed", by_script("right"))
    assert len(bench.model.prompts) == 6
    assert all(len(messages[0]["content"]) == 2 for _, _, messages in bench.model.prompts)


@pytest.mark.parametrize("name", NAMES)
def test_each_names_the_dataset_and_split_of_its_task(name: str) -> None:
    from lmms_eval.tasks import TaskManager
    from lmms_eval.utils import load_yaml_config

    index = hub.task_index(TaskManager)
    task = load_yaml_config(index[benchmark(name).task]["yaml_path"], mode="simple")
    assert task["dataset_path"] == benchmark(name).dataset
    config = task.get("dataset_name", "default")
    assert benchmark(name).splits[config] == [task["test_split"].strip()]


def test_columns_are_those_of_the_published_tables(mirror: Path) -> None:
    tables = CONF.parent / "coincide" / "assets" / "published"
    paper = {b.name for b in suite("paper", mirror).benchmarks.values()}
    more = {b.name for b in suite("paper_plus", mirror).benchmarks.values()}
    printed = sorted(path for path in tables.glob("*.csv") if path.name != "protocols.csv")
    assert len(printed) == 10
    for path in printed:
        header = set(next(csv.reader(path.open())))
        assert header - {"method", "rel"} <= (more if "15pct" in path.name else paper)
    with (tables / "protocols.csv").open(newline="") as handle:
        assert {row["benchmark"] for row in csv.DictReader(handle)} >= paper
    assert len(paper) == 10


def test_suites(mirror: Path) -> None:
    names = {s: set(suite(s, mirror).benchmarks) for s in ("paper", "paper_plus", "unseen", "fast")}
    assert names["paper_plus"] - names["paper"] == {"mmvet", "seed", "ai2d"}
    assert names["unseen"] == {
        "ai2d", "chartqa", "docvqa", "infovqa", "mmvet", "realworldqa", "mmmu",
    }  # fmt: skip
    assert names["fast"] == set(LOCAL) - {"textvqa_no_ocr"}
    for each in suite("fast", mirror).benchmarks.values():
        assert each.subsample and "subsample=" in each.protocol_text
        assert asdict(each)["name"] == each.name
