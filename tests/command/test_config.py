"""Every YAML composes, and what it names exists and takes its values."""

from __future__ import annotations

from pathlib import Path

import hydra
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

import run as program
from coincide.schema import UserError, signals_of
from launch.compositions import Compositions

GROUPS = ("data", "method", "reference", "clip", "vision", "sentence", "target", "train", "eval")
FILES = [
    (group, path.stem) for group in GROUPS for path in sorted((program.CONF / group).glob("*.yaml"))
]
GIVEN = {
    ("data", "llava_json"): ["data.annotations={file}", "data.images={folder}"],
    ("data", "parquet"): ["data.annotations={folder}"],
    ("data", "messages"): ["data.annotations={file}", "data.images={folder}"],
    ("reference", "hub"): ["reference.repo=owner/name"],
    ("target", "hub"): ["target.repo=owner/name"],
    ("method", "from_file"): ["method.path={file}"],
    ("method", "mmssr"): ["method.scores={file}"],
}


@pytest.mark.parametrize(("group", "name"), FILES)
def test_composes_and_instantiates(group: str, name: str, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text("[]")
    more = [word.format(file=file, folder=tmp_path) for word in GIVEN.get((group, name), [])]
    with hydra.initialize_config_dir(str(program.CONF), version_base="1.3"):
        cfg = program.compose_run([f"{group}={name}", *more])
    program.make_job(cfg, [])
    for each in GROUPS:
        made = program.build(cfg, each)
        assert type(made).__name__ == OmegaConf.select(cfg, f"{each}._target_").split(".")[-1]
        if each == group == "method" and name not in ("from_file", "mmssr"):
            for signal in (s for need in made.needs() for s in signals_of(need)):
                assert f"coincide.features.signals.{signal.name}" == type(signal).__module__


@pytest.mark.parametrize(
    "name", sorted(p.stem for p in (program.CONF / "benchmark").glob("*.yaml"))
)
def test_benchmarks_instantiate(name: str) -> None:
    assert instantiate(OmegaConf.load(program.CONF / "benchmark" / f"{name}.yaml"))


def test_matched_takes_the_other_method_as_its_file_and_the_words_have_it(tmp_path: Path) -> None:
    words = ["method=matched", "method.of=coincide", f"paths.store={tmp_path}"]
    [plain] = program.compose_all(words)
    [changed] = program.compose_all([*words, "method.settings={temperature: 0.2}"])
    [theirs] = program.compose_all(["method=coincide", f"paths.store={tmp_path}"])
    [hotter] = program.compose_all(["method=coincide", "method.temperature=0.2"])
    for ours, other in ((plain, theirs), (changed, hotter)):
        assert other.experiment.subset.key in {s.key for s in ours.experiment.selecting}
        assert {w.step.key for w in ours.experiment.wanted} == {
            w.step.key for w in other.experiment.wanted
        }
    assert plain.experiment.subset.key != changed.experiment.subset.key
    assert plain.experiment.contents()["method"] != changed.experiment.contents()["method"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["method.of=coinside"], "method.of='coinside': the choices are.*Did you mean coincide"),
        (["method.of=matched"], "follows another itself: name that other one"),
        (["method.of=../config"], "method.of='../config': the choices are"),
        (["method.of=el2n", "method.settings={up: 1}"], "El2n has no field 'up'; it has direction"),
    ],
)
def test_matched_of_what_is_no_other_method_is_refused(words: list[str], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        program.compose_all(["method=matched", *words])


@pytest.mark.parametrize(
    "name", sorted(p.stem for p in (program.CONF / "experiment").glob("*.yaml"))
)
def test_experiments_span_what_they_say(name: str) -> None:
    """The first and the last of its runs are made; that runs differ shows in their words."""
    text = (program.CONF / "experiment" / f"{name}.yaml").read_text(encoding="utf-8")
    assert f"python run.py experiment={name}" in text
    with hydra.initialize_config_dir(str(program.CONF), version_base="1.3"):
        known = Compositions(program._compose, program.CONF)
        batches = program._split([f"experiment={name}"], known, multirun=False)
        jobs = [
            program.make_job(program.compose_run(b, known), b) for b in (batches[0], batches[-1])
        ]
    assert len({tuple(batch) for batch in batches}) == len(batches)
    assert (len(batches) > 1) == ("MULTIRUN" in text)
    assert {job.experiment.source.name == "demo" for job in jobs} == {"demo" in name.split("_")}
