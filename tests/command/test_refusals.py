"""What the command line refuses, at once, with the choices, and with nothing written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import run as program
from baselines.coido import CoIdo
from baselines.from_file import FromFile
from baselines.matched import Matched
from baselines.mmssr import MmSsr
from baselines.prism import Prism
from baselines.tive import Tive
from baselines.uniform import Random
from baselines.xmas import Xmas
from coincide.checks.needs import gather, refuse_unmet
from coincide.experiment import Experiment
from coincide.method import Coincide
from coincide.schema import UserError
from coincide.stages import stages_of
from tests.command.conftest import Run
from tests.launch.conftest import pretend


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["bugdet=0.2"], "unknown key 'bugdet'.*Did you mean budget"),
        (
            ["method.temprature=1"],
            "unknown key 'method.temprature'.*Did you mean method.temperature",
        ),
        (["features.batch=3"], "unknown key 'features.batch'.*batch_size, batch_tokens"),
        (["method=coincid"], "Could not find 'method/coincid'.*coincide"),
        (["stages=[select,trian]"], "trian; the choices are features, select, train"),
        (["budget=0"], "budget=0 is out of range"),
        (["budget=-0.1"], "budget=-0.1 is out of range"),
        (["budget=nan"], "budget=nan is out of range"),
        (["budget=1.5"], "budget=1.5 is out of range"),
        (["budget=800.0"], "Did you mean the count budget=800"),
        (["seed=-1"], "seed=-1: expected an int >= 0"),
        (["-m", "method=random", "budget=0.2,7.5"], "budget=7.5 is out of range"),
        (["method=from_file"], "method.path"),
        (["method=from_file", "method.path=nowhere.json"], "no such file"),
        (["method.variant=other"], "variant.*released"),
        (["targets=null"], "To choose none of a group leave it out with ~, e.g. ~targets"),
        (["~method"], "method: none is chosen. The choices are clip_score, coido, coincide"),
        (["~launcher"], "launcher: none is chosen. The choices are local"),
        (["train.global_batch=10", "train.micro_batch=16"], "global_batch"),
    ],
)
def test_refused_with_the_choices(
    run: Run, tmp_path: Path, words: list[str], expected: str
) -> None:
    import re

    found = run(*words)
    assert found.returncode != 0
    message = re.sub(r"\s+", " ", found.stderr)
    assert re.search(expected, message), message
    assert "Traceback" not in found.stderr
    assert not (tmp_path / "store").exists()


def test_dry_run_prints_the_plan_and_runs_nothing(run: Run, tmp_path: Path) -> None:
    found = run("dry_run=true")
    assert found.returncode == 0, found.stderr
    for word in ("features", "subset/coincide", "adapter/", "eval/", "build"):
        assert word in found.stdout
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("method", ["presel", "matched", "self_filter", "icons"])
def test_what_is_missing_is_listed_whole(method: str, tmp_path: Path) -> None:
    """Also by methods that look at another subset or at a target finetuned first, whose steps need
    the number of rows of data that is not there."""
    words = [f"paths.{name}={tmp_path / name}" for name in ("data", "store", "ledger")]
    (job,) = program.compose_all(["data=llava", f"method={method}", "targets=demo", *words])
    found = gather([(job.experiment, job.stages)])
    lacking = {group for group, requirement in found if not requirement.met}
    assert {"data", "target", "eval"} <= lacking
    assert len([name for group, name in found if group == "data"]) > 2, "pictures too"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Its store has the data, and models of which the first file alone is there."""
    folder = tmp_path_factory.mktemp("prepared")
    paths = [f"paths.{name}={folder / name}" for name in ("data", "store", "ledger")]
    (job,) = program.compose_all(["data.n=200", "data.items=8", *paths])
    store = job.experiment.store
    store.ensure(job.experiment.data)
    for model in (job.experiment.reference, job.experiment.target):
        pretend(job, model.step())
        config = store.path(model.step()) / "model" / "config.json"
        config.parent.mkdir()
        config.write_text('{"text_config": {"num_hidden_layers": 6}}')
    return job.experiment


def test_what_a_method_names_and_the_data_lack_is_refused_before_anything_runs(
    prepared: Experiment, tmp_path: Path
) -> None:
    (tmp_path / "table.csv").write_text("row,style,skill\n3,a,1\n999,b,2\n")
    path = str(tmp_path / "table.csv")
    sources, rows = r"got \['nosuch'\]; choices: .*vqa", "whole numbers, 0 to 199"
    for method, expected in (
        (Random(sources=["nosuch"]), f"method.sources: {sources}"),
        (Tive(without=["nosuch"]), f"method.without: {sources}"),
        (Matched("tive", other=Tive(without=["nosuch"])), f"method.without: {sources}"),
        (MmSsr(path), rows),
        (CoIdo(scores=path), rows),
        (FromFile(path), "999"),
    ):
        experiment = replace(prepared, method=method)
        with pytest.raises(UserError, match=expected):
            refuse_unmet([(experiment, ["select"])])
        refused_by_stages(experiment, expected)
    refuse_unmet([(replace(prepared, method=Tive(without=["vqa"])), ["select"])])


def test_a_layer_that_a_model_lacks_is_refused_before_a_model_is_trained(
    prepared: Experiment,
) -> None:
    for method in (
        Xmas(layers=[2, 77]),
        Matched("xmas", other=Xmas(layers=[77])),
        Coincide(layers=[77], clusters=4),
        Prism(layer=77),
    ):
        refused_by_stages(
            replace(prepared, method=method), r"layers \[77\] do not exist.*layers 0 to 5"
        )


def refused_by_stages(experiment: Experiment, expected: str) -> None:
    """By the first stage that has something to build, which builds nothing."""
    there = {path.name for path in experiment.store.root.iterdir()}
    stage = next(
        stage for stage in stages_of(experiment, ["select"])[1:]
        if any(experiment.store.find(step) is None for step in stage.steps)
    )  # fmt: skip
    with pytest.raises(UserError, match=expected):
        stage.build(experiment.store, stage.steps)
    assert {path.name for path in experiment.store.root.iterdir()} == there
