"""Every YAML composes, and what it names exists and takes its values."""

from __future__ import annotations

from pathlib import Path

import hydra
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

import run as program

GROUPS = ("data", "method", "reference", "clip", "target", "train", "eval")
FILES = [
    (group, path.stem) for group in GROUPS for path in sorted((program.CONF / group).glob("*.yaml"))
]
GIVEN = {
    ("data", "llava_json"): ["data.annotations={file}", "data.images={folder}"],
    ("data", "messages"): ["data.annotations={file}", "data.images={folder}"],
    ("reference", "hub"): ["reference.repo=owner/name"],
    ("target", "hub"): ["target.repo=owner/name"],
    ("method", "from_file"): ["method.path={file}"],
}


@pytest.mark.parametrize(("group", "name"), FILES)
def test_composes_and_instantiates(group: str, name: str, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text("[]")
    more = [word.format(file=file, folder=tmp_path) for word in GIVEN.get((group, name), [])]
    with hydra.initialize_config_dir(str(program.CONF), version_base="1.3"):
        cfg = hydra.compose("config", [f"{group}={name}", *more])
    program.make_job(cfg, [])
    for each in GROUPS:
        made = program.build(cfg, each)
        assert type(made).__name__ == OmegaConf.select(cfg, f"{each}._target_").split(".")[-1]


@pytest.mark.parametrize(
    "name", sorted(p.stem for p in (program.CONF / "benchmark").glob("*.yaml"))
)
def test_benchmarks_instantiate(name: str) -> None:
    assert instantiate(OmegaConf.load(program.CONF / "benchmark" / f"{name}.yaml"))


def test_a_methods_signals_have_files_of_their_names() -> None:
    from coincide.schema import signals_of

    for group, name in FILES:
        if group == "method" and name != "from_file":
            with hydra.initialize_config_dir(str(program.CONF), version_base="1.3"):
                cfg = hydra.compose("config", [f"method={name}"])
            for need in program.build(cfg, "method").needs():
                for signal in signals_of(need):
                    assert f"coincide.features.signals.{signal.name}" == type(signal).__module__


@pytest.mark.parametrize(
    "name", sorted(p.stem for p in (program.CONF / "experiment").glob("*.yaml"))
)
def test_experiments_span_what_they_say(name: str) -> None:
    """The first and the last of its runs are made; that runs differ shows in their words."""
    text = (program.CONF / "experiment" / f"{name}.yaml").read_text(encoding="utf-8")
    assert f"python run.py experiment={name}" in text
    with hydra.initialize_config_dir(str(program.CONF), version_base="1.3"):
        batches = program._split([f"experiment={name}"], multirun=False)
        jobs = [program.make_job(program._compose(b), b) for b in (batches[0], batches[-1])]
    assert len({tuple(batch) for batch in batches}) == len(batches)
    assert (len(batches) > 1) == ("MULTIRUN" in text)
    assert {job.experiment.source.name == "demo" for job in jobs} == {name.startswith("demo_")}
