"""What was submitted is what runs, whatever is edited afterwards."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import run as program
from coincide.schema import UserError
from launch.frozen import freeze, frozen_command, read
from launch.jobs import goal
from launch.snapshot import snapshot
from launch.sweep import freeze_sweep, sweep_id
from tests.launch.conftest import Compose


def test_a_frozen_run_has_the_same_artifacts(compose: Compose, tmp_path: Path) -> None:
    (job,) = compose("method=coincide", "budget=37", "launcher=processes", "seed=3")
    freeze(job, tmp_path / "run.yaml", tmp_path)
    found = read(tmp_path / "run.yaml")
    again = program.make_job(found.cfg, found.words, found.group)
    assert goal(again) == goal(job)
    assert again.stages == job.stages
    assert again.experiment.config == {
        **job.experiment.config,
        "overrides": [w for w in job.experiment.words if w != "launcher=processes"],
    }
    assert found.folder == tmp_path


def test_editing_the_configuration_changes_nothing(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = tmp_path / "conf"
    shutil.copytree(program.CONF, conf)
    monkeypatch.setattr(program, "CONF", conf)
    (job,) = compose("method=random")
    freeze(job, tmp_path / "run.yaml", tmp_path)
    text = (conf / "train" / "demo.yaml").read_text()
    (conf / "train" / "demo.yaml").write_text(text.replace("rank: 16", "rank: 8"))
    (edited,) = compose("method=random")
    found = read(tmp_path / "run.yaml")
    again = program.make_job(found.cfg, found.words)
    assert again.experiment.recipe.rank == 16 and edited.experiment.recipe.rank == 8
    assert goal(again) == goal(job) != goal(edited)


def test_site_values_are_not_part_of_the_sweep(compose: Compose) -> None:
    here = compose("-m", "method=random,full")
    there = compose("-m", "method=random,full", "launcher=processes", "launcher.at_once=7")
    other = compose("-m", "method=random,full", "budget=0.3")
    assert sweep_id(here) == sweep_id(there) != sweep_id(other)
    back = compose("-m", "method=full,random")  # jobs that wait must find their own run again
    assert sweep_id(here) == sweep_id(back)
    files = [freeze_sweep(runs, Path.cwd()).run(runs[0]) for runs in (here, back)]
    assert [read(file).words[-1] for file in files] == ["method=random", "method=full"]
    assert sweep_id(here).startswith("demo-2-runs-")


@pytest.mark.parametrize("text", ["", "a: [", "words: []\n", "- 1\n"])
def test_another_file_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path / "x.yaml")


def test_the_words_of_a_frozen_run() -> None:
    assert frozen_command(["method=random"]) is None
    found = frozen_command(["frozen=[/a/0.yaml,/a/1.yaml]", "steps=[0123456789ab]"])
    assert found is not None
    assert found.files == (Path("/a/0.yaml"), Path("/a/1.yaml"))
    assert found.steps == ("0123456789ab",) and found.stages is None
    recording = frozen_command(["frozen=/a/0.yaml", "steps=[]"])
    assert recording is not None and recording.steps == ()
    with pytest.raises(UserError, match="'seed=1' beside frozen="):
        frozen_command(["frozen=/a/0.yaml", "seed=1"])


def project(folder: Path) -> Path:
    for name in ("coincide", "tests", "conf/local", ".git", "store"):
        (folder / name).mkdir(parents=True)
    (folder / "coincide" / "__init__.py").write_text("")
    (folder / "tests" / "__init__.py").write_text("")
    (folder / "coincide" / "weights.bin").write_bytes(b"\0\1")
    (folder / "conf" / "local" / "cluster.yaml").write_text("account: mine")
    (folder / "conf" / "config.yaml").write_text("a: 1")
    (folder / "run.py").write_text("print(1)")
    return folder


def test_code_is_copied_once_per_content(tmp_path: Path) -> None:
    live = project(tmp_path / "live")
    first = snapshot(tmp_path / "code", live)
    assert snapshot(tmp_path / "code", live) == first
    copied = sorted(str(p.relative_to(first)) for p in first.rglob("*") if p.is_file())
    assert copied == [
        ".commit", "coincide/__init__.py", "coincide/weights.bin", "conf/config.yaml", "run.py",
    ]  # fmt: skip
    (live / "run.py").write_text("print(2)")
    assert (first / "run.py").read_text() == "print(1)"
    second = snapshot(tmp_path / "code", live)
    assert second != first and (second / "run.py").read_text() == "print(2)"
    assert sorted(p.name for p in (tmp_path / "code").iterdir()) == sorted(
        [first.name, second.name]
    )


def test_the_sites_values_reach_the_launcher_and_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(program.CONF, tmp_path / "conf")
    monkeypatch.setattr(program, "CONF", tmp_path / "conf")
    shutil.copy(
        program.CONF / "local" / "cluster.example.yaml", tmp_path / "conf/local/cluster.yaml"
    )
    (job,) = program.compose_all(["launcher=slurm"])
    slurm = program.build(job.cfg, "launcher")
    assert slurm.gpu.partition == "gpu" and slurm.gpu.gpus == 8 and slurm.at_most == 16
    assert slurm.cpu.time == "04:00:00"  # what the site leaves out stays
    assert "my-project" not in str(job.experiment.config)
    (local,) = program.compose_all([])
    assert "my-project" not in OmegaConf.to_yaml(local.cfg)
