"""Rows that a model cannot read or learns nothing from: found before hours, counted, not chosen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import run as program
from coincide.data.llava_json import read
from coincide.models.load import load_processor
from coincide.models.probe import (
    CUT,
    CUT_AT_IMAGE,
    EMPTY,
    LONG_PICTURES,
    REFUSED_PICTURE,
    REFUSED_TEXT,
    Prober,
    one_size,
)
from coincide.models.template import TEMPLATES
from coincide.models.tiny import make_processor
from coincide.schema import Dataset, Turn, UserError
from coincide.selection.scan import scan_rows
from tests.tiny_chat import FAMILIES, make_tiny_chat

SIZES = {"a.png": (40, 30), "tall.png": (30, 90), "thin.png": (600, 2)}
T = (
    "reference=tiny", "target=tiny", "train=demo", "eval=demo", "data.clusters=2",
    "data.on_media_tag=text",
)  # fmt: skip


def talk(question: str, *answers: str) -> list[dict[str, str]]:
    turns = []
    for answer in answers:
        turns += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        question = "and"
    return turns


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, size in SIZES.items():
        Image.new("RGB", size, "red").save(folder / name)
    (folder / "ann.json").write_text(json.dumps(rows))
    return folder


def image(name: str, question: str, *answers: str) -> dict[str, Any]:
    return {"image": name, "conversations": talk(f"<image>\n{question}", *answers)}


def dataset(folder: Path, rows: list[dict[str, Any]]) -> Dataset:
    return read(write(folder, rows) / "ann.json", folder, name="d", tags_as_text=True)


LONG = "word " * 700
HALVES = [
    image("a.png", "what", ""),
    image("a.png", "what", "red"),
    {"conversations": talk("say", "yes", "")},
    image("a.png", LONG, "red"),
    image("a.png", "what", "red " + LONG),
    {"conversations": talk(LONG, "yes")},
    {"image": ["a.png"] * 60, "conversations": talk("<image>" * 60 + "which", "none")},
    {"image": "a.png", "conversations": talk(LONG, "yes", "no") + talk("<image>\nwhich", "none")},
]


def test_nothing_to_learn_is_told_apart_by_its_reason(tmp_path: Path) -> None:
    found = scan_rows(dataset(tmp_path, HALVES), Prober(make_processor(), "tiny", 512))
    kinds = {row: kind for row, (kind, _) in found.unlearnt.items()}
    assert kinds == {0: EMPTY, 3: CUT, 5: CUT, 7: CUT_AT_IMAGE}
    assert {row: kind for row, (kind, _) in found.refused.items()} == {6: LONG_PICTURES}
    assert found.refused[6][1] == "60 of them take 540 tokens, max_length is 512"
    assert found.digest
    assert found.digest != scan_rows(dataset(tmp_path, HALVES[1:]), None).digest == ""


@pytest.mark.parametrize("family", FAMILIES)
def test_the_verdict_is_that_of_training(tmp_path: Path, family: str) -> None:
    """Row by row, at lengths where rows begin to be cut: what the encoder itself makes of it."""
    from coincide.models.encode import IGNORE, encode

    processor = load_processor(make_tiny_chat(family, tmp_path))
    rows = [
        *HALVES[:-2],
        {"image": ["a.png"] * 3, "conversations": talk("<image>" * 3 + "which", "none")},
        image("tall.png", "what", "red", "blue"),
        {"image": ["a.png", "tall.png"], "conversations": talk("<image>\n<image>\nx", "y")},
    ]
    if processor.image_token != "<image>":
        rows.append(image("a.png", f"{processor.image_token} again", "no"))
    data = dataset(tmp_path / "data", rows)
    for limit in (20, 45, 100, 2000):
        found = scan_rows(data, Prober(processor, "chat", limit))
        for example in data.examples:
            try:
                whole = encode(example, data, processor, TEMPLATES["chat"], limit)
            except UserError:
                assert example.row in found.refused
            else:
                learnt = bool((whole.labels[1:] != IGNORE).any())
                assert (example.row in found.barred) == (not learnt), (limit, example.row)
                assert found.refused.get(example.row, (LONG_PICTURES,))[0] == LONG_PICTURES


def test_what_qwen_s_processor_refuses_is_found_by_sizes_alone(tmp_path: Path) -> None:
    processor = load_processor(make_tiny_chat("qwen2_5_vl", tmp_path))
    assert not one_size(processor)
    rows = [
        image("thin.png", "what", "red"),
        image("a.png", "where is <|image_pad|>", "red"),
        image("a.png", "what", "red"),
    ]
    found = scan_rows(dataset(tmp_path / "data", rows), Prober(processor, "chat", 512))
    assert {row: kind for row, (kind, _) in found.refused.items()} == {
        0: REFUSED_PICTURE,
        1: REFUSED_TEXT,
    }
    assert "absolute aspect ratio must be smaller than 200" in found.refused[0][1]


def test_an_upright_picture_is_measured_as_it_is_shown(tmp_path: Path) -> None:
    from coincide.data.images import load_image, size_of

    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    assert size_of(tmp_path, "turned.jpg") == load_image(tmp_path, "turned.jpg").size == (20, 40)


# --- through the command ----------------------------------------------------------------------


def run(folder: Path, *words: str) -> None:
    given = ("data=llava_json", f"data.annotations={folder / 'ann.json'}", f"data.images={folder}")
    jobs = program.compose_all([*given, *T, f"paths.store={folder / 'store'}", *words])
    for job in jobs:
        program.executor(job).run(job)


def chosen(folder: Path, method: str) -> list[int]:
    (path,) = (folder / "store" / "subset").glob(f"{method}-*/rows.npy")
    found: list[int] = np.load(path).tolist()
    return found


def mixed(folder: Path) -> Path:
    """Every second answer is empty."""
    rows = [image("a.png", f"what {i}", "red" if i % 2 else "") for i in range(20)]
    return write(folder, rows)


GATE = ("health.largest_cluster=1.0", "health.empty_clusters=1.0")


@pytest.mark.parametrize("words", ["random budget=10", "el2n budget=10", "full"])
def test_a_budget_is_filled_from_rows_that_teach(tmp_path: Path, words: str) -> None:
    folder, method = mixed(tmp_path), words.split()[0]
    run(folder, *GATE, *f"method={words}".split(), "stages=[features,select]")
    assert chosen(folder, method) == list(range(1, 20, 2))
    (facts,) = (folder / "store" / "subset").glob("*/facts.json")
    assert json.loads(facts.read_text())["unusable_by"] == {EMPTY: 10}
    if method != "random":
        return
    (scan,) = (folder / "store" / "scan").glob("*/rows.json")
    scan.write_text(scan.read_text().replace('"2":', '"3":'))  # another row would be barred
    shutil.rmtree(folder / "store" / "subset")
    run(folder, *GATE, "method=random", "budget=10", "stages=[features,select]")
    assert chosen(folder, method) == list(range(1, 20, 2))


def test_a_budget_beyond_what_teaches_says_why(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"10 of the 11 .*\(10 x every answer is empty\)"):
        run(mixed(tmp_path), "method=random", "budget=11", "stages=[select]")


def test_a_subset_with_nothing_to_learn_is_refused_before_training(tmp_path: Path) -> None:
    folder = write(tmp_path, [image("a.png", LONG, "red") for _ in range(5)])
    with pytest.raises(UserError, match=r"no row to train on.*5 x every answer is cut off"):
        run(folder, "method=full", "stages=[select,train]")
    assert not list((folder / "store").glob("adapter/*"))


def test_rows_all_of_which_teach_leave_the_key_alone(tmp_path: Path) -> None:
    folder = write(tmp_path, [image("a.png", f"what {i}", "red") for i in range(4)])
    run(folder, "method=full", "stages=[select]")
    (subset,) = (folder / "store" / "subset").glob("*/manifest.json")
    assert "barred" not in json.loads(subset.read_text())["config"]
    (found,) = (folder / "store" / "scan").glob("*/rows.json")
    assert json.loads(found.read_text()) == {"refused": {}, "unlearnt": {}}


def test_what_only_selects_looks_through_the_target_s_processor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without its weights, which are neither needed nor built; without any file of it, the rows
    that no model learns from are left out, and that is said.
    """
    model = make_tiny_chat("llava", tmp_path)
    (model / "model.safetensors").unlink()
    rows = [image("a.png", f"what {i}", *(["red"] if i else [""])) for i in range(6)]
    rows += [image("a.png", LONG, "red"), {"image": ["a.png"] * 60, "conversations": talk(
        "<image>" * 60 + "which", "none")}]  # fmt: skip
    folder = write(tmp_path / "d", rows)
    words = ("target=hub", "target.max_length=128", "method=full", "stages=[select]",
             "data.on_bad_row=drop")  # fmt: skip
    run(folder, *words, f"target.repo={model}")
    assert chosen(folder, "full") == [1, 2, 3, 4, 5]
    assert not [p.name for p in (folder / "store" / "model").glob("*") if model.name in p.name]
    with pytest.raises(UserError, match=rf"1 x {LONG_PICTURES}: rows 7.*60 of them take"):
        run(folder, *words[:-1], f"target.repo={model}")
    capsys.readouterr()
    run(folder, *words, f"target.repo={tmp_path / 'gone'}", f"paths.store={folder / 'other'}")
    assert (
        "The processor of gone, which would train on the subset, is not" in capsys.readouterr().out
    )
    (rest,) = (folder / "other" / "subset").glob("full-*/rows.npy")
    assert np.load(rest).tolist() == [1, 2, 3, 4, 5, 6, 7]


def refused(folder: Path) -> tuple[Path, tuple[str, ...]]:
    rows = [image("a.png", f"what {i}", "red") for i in range(6)]
    rows += [image("thin.png", "what", "red"), image("a.png", "<|image_pad|>", "red")]
    model = make_tiny_chat("qwen2_5_vl", folder)
    return write(folder / "d", rows), ("target=hub", f"target.repo={model}", "target.max_length=64")


def test_refused_rows_are_all_named_before_anything_is_trained(tmp_path: Path) -> None:
    folder, target = refused(tmp_path)
    said = r"(?s)1 x picture that.*rows 6.*aspect ratio.*1 x text that.*rows 7.*data.on_bad_row"
    with pytest.raises(UserError, match=said):
        run(folder, *target, "method=full", "stages=[select,train]")
    assert not list((folder / "store").glob("subset/*"))


def test_refused_rows_are_dropped_where_the_policy_says_so(tmp_path: Path) -> None:
    """Of the target, and of the reference, whose pass then gives the others their values."""
    folder, target = refused(tmp_path)
    reference = [w.replace("target", "reference") for w in target]
    words = (*GATE, "reference.layers=[0,1]", "reference.dtype=float32", "data.on_bad_row=drop")
    run(folder, *target, *reference, *words, "method=coincide", "budget=6",
        "stages=[features,select]")  # fmt: skip
    assert chosen(folder, "coincide") == [0, 1, 2, 3, 4, 5]
    run(folder, *target, "data.on_bad_row=drop", "method=full", "stages=[select,train]",
        "train.epochs=1")  # fmt: skip
    assert chosen(folder, "full") == [0, 1, 2, 3, 4, 5]


def test_a_reference_that_refuses_rows_stops_before_its_pass(tmp_path: Path) -> None:
    folder, target = refused(tmp_path)
    reference = [w.replace("target", "reference") for w in target]
    with pytest.raises(UserError, match="picture that the model's processor refuses"):
        run(folder, *reference, "reference.layers=[0]", "method=coincide", "budget=3",
            "stages=[features]")  # fmt: skip
    assert not list((folder / "store").glob("features/*"))


def test_lost_data_is_no_fault_of_the_features(tmp_path: Path) -> None:
    rows = [image("gone.png" if i in (4, 9) else "a.png", f"what {i}", "red") for i in range(20)]
    folder = write(tmp_path, rows)
    drop = ("data.on_missing_image=drop", *GATE, "budget=5", "stages=[features,select]")
    run(folder, *drop, "method=coincide")
    assert not {4, 9} & set(chosen(folder, "coincide"))
    told = r"2 of 20 rows \(10\.0%\).*2 x missing image.*data\.on_missing_image.*health\.lost_rows"
    with pytest.raises(UserError, match=told):
        run(folder, *drop, "method=el2n", "health.lost_rows=0.05")
    assert len(list((folder / "store").glob("features/*"))) == 1, "told before the pass"


def test_a_list_of_rows_with_lost_ones_says_which_and_why(tmp_path: Path) -> None:
    rows = [image("gone.png" if i in (4, 9) else "a.png", f"what {i}", "red") for i in range(20)]
    folder = write(tmp_path, rows)
    (folder / "rows.json").write_text("[1, 4, 7, 9]")
    with pytest.raises(UserError, match=r"2 x missing image: rows 4, 9\n.*method\.path"):
        run(folder, "data.on_missing_image=drop", "method=from_file",
            f"method.path={folder / 'rows.json'}", "stages=[select]")  # fmt: skip


def test_blanks_are_an_answer_and_nothing_is_not() -> None:
    from coincide.models.probe import nothing_to_learn

    assert nothing_to_learn((Turn("human", "a"), Turn("gpt", " "))) is None, "blanks are learnt"
    found = nothing_to_learn((Turn("human", "a"), Turn("gpt", "")))
    assert found is not None
    assert found.kind == EMPTY


def test_jobs_planned_before_the_rows_were_looked_at_build_what_was_meant(tmp_path: Path) -> None:
    """As a queue runs them: each from its own words, later, when the scan is there."""
    from launch.plan import KEY_DIGITS, plan_nodes

    folder = mixed(tmp_path)
    words = [
        "-m", "data=llava_json", f"data.annotations={folder / 'ann.json'}", f"data.images={folder}",
        *T, f"paths.store={folder / 'store'}", "method=random,full", "budget=10", "stages=[select]",
    ]  # fmt: skip
    for node in plan_nodes(program.compose_all(words)):
        later = program.compose_all(words)
        keys = [step.planned[:KEY_DIGITS] for step in node.steps]
        runs = [later[number] for number in node.runs]
        program.executor(later[0]).steps(runs, keys)
    assert chosen(folder, "random") == chosen(folder, "full") == list(range(1, 20, 2))
    assert not plan_nodes(program.compose_all(words))


def test_a_target_that_reads_less_gets_a_subset_of_its_own(tmp_path: Path) -> None:
    rows = [image("a.png", f"what {i} " + "word " * (60 * (i % 2)), "red") for i in range(8)]
    folder = write(tmp_path, rows)
    run(folder, "method=full", "stages=[select]")
    run(folder, "method=full", "target.max_length=80", "stages=[select]")
    found = (folder / "store" / "subset").glob("full-*/rows.npy")
    assert sorted(len(np.load(path)) for path in found) == [4, 8]
