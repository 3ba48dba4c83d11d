"""Results are told apart by what their data, models and files hold, not by what they are called."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

import run as program
from baselines.from_file import FromFile
from baselines.self_filter import SelfFilter
from baselines.uniform import Random
from coincide.ledger.files import read_ledger, write_result
from coincide.ledger.identity import fields_outside_key, same_asked
from coincide.ledger.result import Result
from coincide.report.compare import panels
from coincide.report.formats import as_json, comma_separated
from coincide.report.pairs import Pairs
from coincide.report.records import Panel
from coincide.selection.scoring import own_class
from tests.report.fixture import ledger, result
from track.compared import compare_with_ledger
from train.recipe import Recipe

ONE, TWO = {"data": "a" * 12, "target": "c" * 12}, {"data": "b" * 12, "target": "c" * 12}


def holding(runs: list[Result], contents: dict[str, str]) -> list[Result]:
    return [replace(run, contents=contents) for run in runs]


def texts(panel: Panel) -> str:
    return "\n".join(note.text for note in panel.notes)


def rel(panel: Panel, method: str) -> float | None:
    (row,) = [r for r in panel.rows if r.method == method]
    return row.rel.estimate and row.rel.estimate.mean


@pytest.mark.parametrize("other", [TWO, {**ONE, "target": "d" * 12}])
def test_two_contents_of_one_name_are_two_panels_and_it_is_said(other: dict[str, str]) -> None:
    full, run = result("full", 0, (80.0, 80.0, 80.0), budget=1.0), result("random", 0, (40.0,) * 3)
    half = replace(full, scores=result("full", 0, (40.0,) * 3).scores, created="2027-01-01")
    found = panels([*holding([full, run], ONE), *holding([half, run], other)])
    assert [rel(panel, "random") for panel in found] == [50, 100]
    assert all(panel.title != found[0].title for panel in found[1:])
    assert "twice" not in "".join(map(texts, found))
    for panel in found:
        assert "contents share the name" in texts(panel)
        assert panel.apart in panel.title and panel.apart
    lines = list(csv.DictReader(comma_separated(found).splitlines()))
    assert len({(line["data"], line["target"]) for line in lines}) == 2, "a table for other tools"
    one, two = (as_json(panel, Pairs("Rel. (%)")) for panel in found)
    assert one["contents"] != two["contents"]


def test_one_content_is_one_row_wherever_it_lies() -> None:
    runs = [
        replace(
            result(
                "random", seed, (40.0,) * 3, config={"data": {"annotations": f"/{seed}/a.json"}}
            ),
            contents=ONE,
        )
        for seed in (0, 1)
    ]
    (panel,) = panels(runs)
    assert [row.seeds for row in panel.rows] == [[0, 1]]
    assert "share" not in texts(panel)


def test_results_of_before_contents_were_recorded_join_the_only_ones_they_can_be_of() -> None:
    old, new = ledger(), holding([result("random", 2, (62.0, 42.0, 82.0))], ONE)
    (panel,) = panels([*old, *new])
    assert {tuple(r.seeds) for r in panel.rows if r.method == "random" and r.budget == 0.2} == {
        (0, 1, 2)
    }
    two = [*new, *holding([result("random", 3, (62.0, 42.0, 82.0))], TWO)]
    assert len(panels([*old, *two])) == 3, "they could be of either"
    elsewhere = [replace(r, config={**r.config, "data": {"annotations": "/x.json"}}) for r in old]
    assert len(panels([*elsewhere, *new])) == 2, "other files"


def test_old_results_of_several_files_are_doubted() -> None:
    runs = [
        result("random", s, (40.0,) * 3, config={"data": {"annotations": f"{s}.json"}})
        for s in (0, 1)
    ]
    assert "name several files: 0.json, 1.json" in texts(panels(runs)[0])


@pytest.mark.parametrize("part", ["reference", "clip", "method"])
def test_models_and_files_of_one_name_are_rows_told_apart(part: str) -> None:
    config = {"method": {"path": "mine.json"}}
    runs = [
        replace(
            result("coincide", seed, (40.0 + 10 * i,) * 3, config=config),
            contents={**ONE, part: digit * 12},
            aside=("method.path",),
        )
        for i, digit in enumerate("12")
        for seed in (0, 1)
    ]
    (panel,) = panels(runs)
    assert sorted(row.scores["attributes"].values for row in panel.rows) == [(40, 40), (50, 50)]
    assert len({row.label for row in panel.rows}) == 2
    assert "Names that several rows share" in texts(panel)


def test_files_of_other_paths_are_named_by_them() -> None:
    runs = [
        replace(
            result("from_file", 0, (40.0,) * 3, config={"method": {"path": f"{folder}/mine.json"}}),
            contents={**ONE, "method": folder * 12},
            aside=("method.path",),
        )
        for folder in "ab"
    ]
    assert {row.label for row in panels(runs)[0].rows} == {
        "from_file [path=a/mine.json]", "from_file [path=b/mine.json]",
    }  # fmt: skip


@pytest.mark.parametrize("change", [{"protocol": "other"}, {"asked": "2" * 12}])
def test_scores_of_other_protocols_or_documents_are_never_averaged(change: dict[str, str]) -> None:
    runs = [result("random", seed, (40.0, 50.0, 60.0)) for seed in (0, 1, 2)]
    same = [replace(r, scores=tuple(replace(s, asked="1" * 12) for s in r.scores)) for r in runs]
    odd = replace(same[2], scores=tuple(replace(s, **change) for s in same[2].scores))
    (panel,) = panels([*same[:2], odd])
    for row in panel.rows:
        assert len({(s.protocol, s.asked) for run in row.runs for s in run.scores[:1]}) == 1 or (
            not row.scores
        )


def test_documents_are_compared_by_what_is_known_of_them() -> None:
    assert same_asked("", "1") and same_asked("1", "1") and not same_asked("1", "2")
    assert not same_asked("1@bytes-a", "1@bytes-b")
    assert same_asked("1@bytes-a", "1@commit-b"), "a mirror and the hub's cache"


def test_fields_of_methods_count_by_what_the_method_declares() -> None:
    """``workers`` and ``range`` of a method are no matter of speed, whatever others call so."""
    for name in ("workers", "range", "seed", "device", "batch_size", "projection", "threads"):
        for contents in (ONE, {}):
            configs = [{"method": {name: value}} for value in (1, 2)]
            runs = [result("mine", 0, (40.0,) * 3, config=config) for config in configs]
            assert len(panels(holding(runs, contents))[0].rows) == 2, name
    fast = [
        replace(result("mine", s, (40.0,) * 3, config={"method": {"depth": s}}), contents=ONE,
                aside=("method.depth",))
        for s in (0, 1)
    ]  # fmt: skip
    assert len(panels(fast)[0].rows) == 1


def test_what_changes_no_answer_is_declared_once(tmp_path: Path) -> None:
    assert "method.depth" in fields_outside_key(SelfFilter(), Recipe())
    assert {"train.micro_batch", "train.workers"} <= set(fields_outside_key(Random(), Recipe()))
    assert not {"train.lr", "train.rank"} & set(fields_outside_key(Random(), Recipe()))
    file = tmp_path / "a.npy"
    np.save(file, np.arange(3))
    assert "method.path" in fields_outside_key(FromFile(str(file)), Recipe())


@dataclass(frozen=True)
class Mine(Random):
    name: str = "random"
    uses_seed: ClassVar[bool] = True


def test_a_method_of_ones_own_under_a_known_name_is_another() -> None:
    assert own_class(Random()) == {} and own_class(Mine())["class"].endswith(".Mine")
    runs = [
        result("random", s, (40.0,) * 3, config={"method": {"_target_": target}})
        for s, target in enumerate(["baselines.uniform.Random", "mine.Random"])
    ]
    assert len(panels(runs)[0].rows) == 2


def dataset(folder: Path, colour: str) -> list[str]:
    folder.mkdir()
    Image.new("RGB", (8, 8), colour).save(folder / "p.png")
    said = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": colour}]
    rows = [{"id": str(i), "image": "p.png", "conversations": said} for i in range(4)]
    (folder / "a.json").write_text(json.dumps(rows))
    return [f"data.annotations={folder}/a.json", f"data.images={folder}"]


def test_an_experiment_records_what_its_parts_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found: list[Any] = []
    for name, colour in (("one", "red"), ("two", "blue"), ("copy", "red")):
        words = ["data=llava_json", "method=random", *dataset(tmp_path / name, colour)]
        (job,) = program.compose_all([*words, f"paths.store={tmp_path}/store"])
        found.append(job.experiment.contents())
        assert job.experiment.subset.config["k"] == 1, "0.2 of four rows, at least one"
    one, two, copy = found
    assert one["data"] != two["data"] and one["target"] == two["target"]
    assert one == copy
    assert set(one) == {"data", "target"}


def test_the_ledger_keeps_it(tmp_path: Path) -> None:
    run = replace(result("random", 0, (40.0,) * 3), contents=ONE, aside=("train.workers",))
    write_result(tmp_path, run)
    (again,) = read_ledger(tmp_path)
    assert (again.contents, again.aside) == (ONE, ("train.workers",))
    old = asdict(run)
    del old["contents"], old["aside"]
    for score in old["scores"]:
        del score["unit"], score["units"], score["asked"]
    (tmp_path / "old.json").write_text(json.dumps({**old, "config": {}}))
    assert {r.aside for r in read_ledger(tmp_path)} == {(), ("train.workers",)}


def test_a_run_is_compared_with_its_own_datas_full_run_at_wandb_too() -> None:
    full, run = result("full", 0, (80.0,) * 3, budget=1.0), result("random", 0, (40.0,) * 3)
    half = replace(full, scores=result("full", 0, (40.0,) * 3).scores)
    runs = [*holding([full, run], ONE), *holding([half, run], TWO)]
    named = [replace(r, keys={"subset": f"subset/x-{i:012x}"}) for i, r in enumerate(runs)]
    found = [each.rel for each in compare_with_ledger(named).values()]
    assert sorted(value for value in found if value is not None) == [50, 100, 100, 100]
