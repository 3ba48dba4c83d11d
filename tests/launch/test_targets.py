"""What a configuration may build, by whomever it was written. The refused targets are harmless:
each would leave a trace in ``TOUCHED``, and none does."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

import run as program
from coincide.schema import UserError
from eval.suite import TASKS
from launch.frozen import freeze, read
from launch.targets import check_hydra, foreign_code
from tests.launch.conftest import Compose

TOUCHED: list[Any] = []


def touch(*args: Any, **kwargs: Any) -> str:
    TOUCHED.append((args, kwargs))
    return "touched"


TOUCH = f"{__name__}.touch"


@pytest.fixture(autouse=True)
def _nothing_is_called() -> Any:
    assert getattr(sys.modules[__name__], "TOUCHED") is TOUCHED  # noqa: B009
    TOUCHED.clear()
    yield
    assert TOUCHED == []


@pytest.mark.parametrize(
    ("words", "group", "field"),
    [
        (("method=coincide", "method.temperature={}"), "method", "temperature"),
        (("train.lr={}",), "recipe", "lr"),
        (("train.epochs={}",), "recipe", "epochs"),
    ],
)
def test_numbers_of_equal_value_are_one_run(
    words: tuple[str, ...], group: str, field: str, compose: Compose
) -> None:
    (one, other) = (
        compose(*(w.format(number) for w in words))[0].experiment for number in ("1", "1.0")
    )
    assert one.adapter.key == other.adapter.key
    mine, theirs = (getattr(getattr(e, group), field) for e in (one, other))
    assert (mine, type(mine)) == (theirs, type(theirs))


EVIL = {"_target_": TOUCH}
SPOILED: list[dict[str, Any]] = [
    {"method": EVIL},
    {"method": {"_target_": "os.getcwd"}},
    {"method": {"_target_": "coincide.system.files.os.getcwd"}},
    {"method": {"_target_": "coincide.store.Store", "root": "x"}},
    {"method": {"_target_": "coincide.data.demo.Demo"}},
    {"method": {"_target_": "coincide.system.files.write_json"}},
    {"method": {"_target_": None}},
    {"method": {"_target_": ["a", "b"]}},
    {"data": {"_target_": "coincide.data.download.Download"}},
    {"data": {"n": EVIL}},
    {"data": {"n": [1, [{"deep": EVIL}]]}},
    {"data": {"n": {"_target_": "launch.local.Local"}}},
    {"data": {"n": "${oc.create:{_target_: os.getcwd}}"}},
    {"data": {"n": "${seed}", "seed": {"again": "${data.evil}"}, "evil": EVIL}},
    {"data": {"_target_": "${data.name}", "name": TOUCH}},
    {"data": {"_partial_": True}},
    {"data": {"_args_": [1]}},
    {"train": {"rank": {"_target_": "train.recipe.Recipe.read"}}},
    {"eval": {"judge": {"_target_": "eval.judge.urllib.request.urlopen", "url": "x"}}},
    {"eval": {"benchmarks": {"choice": {"_target_": TOUCH}}}},
    {"logger": EVIL},
    {"launcher": EVIL},
    {"features": {"device": EVIL}},
    {"paths": {"store": EVIL}},
]


@pytest.mark.parametrize("spoiled", SPOILED, ids=str)
def test_a_frozen_file_builds_nothing_but_objects_of_its_groups(
    compose: Compose, tmp_path: Path, spoiled: dict[str, Any]
) -> None:
    (job,) = compose("method=random")
    path = tmp_path / "run.yaml"
    freeze(job, path, tmp_path)
    content = OmegaConf.load(path)
    assert isinstance(content.config, type(content))
    content.config = OmegaConf.merge(content.config, spoiled)
    OmegaConf.save(content, path)
    with pytest.raises(UserError, match=r"is refused|cannot be read"):
        read(path)


def test_a_second_round_of_interpolation_builds_nothing(compose: Compose, tmp_path: Path) -> None:
    """An escaped interpolation is text, and stays text when the object is built."""
    (job,) = compose("method=random")
    path = tmp_path / "run.yaml"
    freeze(job, path, tmp_path)
    content = OmegaConf.load(path)
    content.config.data.name = "\\${oc.create:{_target_: os.getcwd}}"
    OmegaConf.save(content, path)
    cfg = read(path).cfg
    assert program.build(cfg, "data").name == "${oc.create:{_target_: os.getcwd}}"


@pytest.mark.parametrize(
    "word",
    [
        f"method._target_={TOUCH}",
        f"+method.more._target_={TOUCH}",
        f"+data.more=[{{_target_: {TOUCH}}}]",
        f"+eval.judge={{_target_: {TOUCH}}}",
        f"+hydra.callbacks.mine._target_={TOUCH}",
        "+hydra.job_logging.handlers.mine.class=os.getcwd",
    ],
)
def test_the_command_line_is_held_to_the_same_rule(compose: Compose, word: str) -> None:
    with pytest.raises(UserError, match="is refused"):
        compose(word)


def test_yaml_of_another_folder_is_held_to_the_same_rule(compose: Compose, tmp_path: Path) -> None:
    (tmp_path / "extra" / "method").mkdir(parents=True)
    (tmp_path / "extra" / "method" / "theirs.yaml").write_text(f"_target_: {TOUCH}\n")
    (tmp_path / "extra" / "method" / "mine.yaml").write_text("_target_: baselines.full.Full\n")
    search = f"hydra.searchpath=[file://{tmp_path / 'extra'}]"
    (job,) = compose(search, "method=mine")
    assert job.experiment.method.name == "full"
    with pytest.raises(UserError, match=r"method._target_='.*touch' is refused.*Nothing was built"):
        compose(search, "method=theirs")


def test_naming_it_in_conf_is_not_enough(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    shutil.copytree(program.CONF, tmp_path / "conf")
    (tmp_path / "conf" / "method" / "theirs.yaml").write_text("_target_: os.getcwd\n")
    monkeypatch.setattr(program, "CONF", tmp_path / "conf")
    with pytest.raises(UserError, match="is refused"):
        compose("method=theirs")


OWN = """
from dataclasses import dataclass, field
@dataclass(frozen=True)
class Part:
    share: float = 0.5
@dataclass(frozen=True)
class Mine:
    part: Part
    name: str = "mine"
    uses_seed: bool = False
    fixed_size: bool = False
    def needs(self): return ()
    def select(self, pool, k, seed): raise NotImplementedError
"""


def test_a_method_of_the_working_folder_is_built_with_its_parts(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "guarded_method.py").write_text(OWN)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "guarded_foreign.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))
    (tmp_path / "extra" / "method").mkdir(parents=True)
    for module in ("guarded_method", "guarded_foreign"):
        (tmp_path / "extra" / "method" / f"{module}.yaml").write_text(
            f"_target_: {module}.Mine\npart: {{_target_: {module}.Part, share: 0.25}}\n"
        )
    search = f"hydra.searchpath=[file://{tmp_path / 'extra'}]"
    (job,) = compose(search, "method=guarded_method")
    assert job.experiment.method.part.share == 0.25  # type: ignore[attr-defined]
    freeze(job, tmp_path / "run.yaml", tmp_path)
    assert program.make_job(read(tmp_path / "run.yaml").cfg, []).experiment.method.name == "mine"
    with pytest.raises(UserError, match=r"guarded_foreign.Mine' is refused"):
        compose(search, "method=guarded_foreign")
    assert "guarded_foreign" not in sys.modules


def test_tasks_of_another_folder_come_of_ones_own_file_alone(
    compose: Compose, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """lmms-eval runs the code that a task's YAML names."""
    assert list(foreign_code({"a": [{"tasks_dir": "demo", "overlay": "mmbench/x.yaml"}]})) == []
    assert list(foreign_code({"tasks_dir": "../../../elsewhere"})) == ["../../../elsewhere"]
    tasks = tmp_path_factory.mktemp("elsewhere") / "tasks"
    shutil.copytree(TASKS / "demo", tasks)
    (job,) = compose(f"eval.benchmarks.choice.tasks_dir={tasks}")
    path = tmp_path / "run.yaml"
    freeze(job, path, tmp_path)
    assert read(path).cfg.eval.benchmarks.choice.tasks_dir == str(tasks)
    path.chmod(0o666)
    with pytest.raises(UserError, match=f"names code of another folder, '{tasks}'"):
        read(path)


def test_hydras_own_settings_pass() -> None:
    check_hydra(
        {"launcher": {"_target_": "hydra._internal.core_plugins.x"}, "a": ["ext://sys.stdout"]}
    )
    with pytest.raises(UserError, match=r"hydra.a.\(\)='os.getcwd' is refused"):
        check_hydra({"a": {"()": "os.getcwd"}})
    with pytest.raises(UserError, match=r"hydra.a\[0\]='ext://os.getcwd' is refused"):
        check_hydra({"a": ["ext://os.getcwd"]})


@pytest.mark.parametrize("flag", ["--experimental-rerun", "--config-dir", "-cd", "--run"])
def test_flags_that_run_something_are_refused(
    flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", flag, "x"])
    assert program.main() == 2
    assert f"unknown flag '{flag}'" in capsys.readouterr().err
