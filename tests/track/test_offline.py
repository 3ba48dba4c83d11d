"""Real offline runs, read back by wandb's own reader."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from coincide.ledger.evidence import ArtifactShelf
from tests.track.reader import Offline, offline_runs
from tests.track.world import SECRET, STEPS, World, make, with_secrets
from track import process
from track.records import WandbRun
from track.replay import ledger_runs
from track.settings import Logger
from track.sync import NotWritten, SyncCounts, marks, sync


def logger(folder: Path) -> Logger:
    return Logger(mode="offline", dir=str(folder), timeout=60)


def records(world: World) -> list[WandbRun]:
    return ledger_runs(world.ledger, world.ledger, ArtifactShelf(world.store))


def files(folder: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def written(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    assert sync(records(world), logger(folder)) == SyncCounts(9, 0)
    return folder


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    return shutil.copytree(written, tmp_path / "copy")


def one(written: Path, job_type: str, method: str) -> Offline:
    (run,) = (
        run
        for run in offline_runs(written).values()
        if run.job_type == job_type and run.config["method_name"] == method
    )
    return run


def test_every_run_is_there_once_and_ended(written: Path) -> None:
    found = offline_runs(written)
    assert len(found) == 9
    assert {run.group for run in found.values()} == {"sweep-toy"}
    assert all(run.exits == 1 for run in found.values())


def test_what_is_said_to_be_written_is_there_whatever_the_names(tmp_path: Path) -> None:
    """Every record of a run with its artifacts, read back."""
    names = ["org/set", "..", "x" * 260, "演示 и ü, ?*", "<i>a</i>=1"]
    worlds = [make(tmp_path / str(number), name) for number, name in enumerate(names)]
    made = [
        (ledger_runs([w.random], [w.random], ArtifactShelf(w.store)), w.random.data) for w in worlds
    ]
    out = tmp_path / "out"
    runs = [run for found, _ in made for run in found]
    assert sync(runs, logger(out)) == SyncCounts(3 * len(names), 0)
    there = offline_runs(out)
    assert there.keys() == {run.id for run in runs}
    for found, name in made:
        select, train, evaluate = (there[run.id] for run in found)
        for run in (select, train, evaluate):
            assert run.exits == 1
            assert run.config["data_name"] == name
            assert name[:64] in run.tags
        assert train.used == own(select) != {}
        assert evaluate.used == own(train) != {}
        assert all(re.fullmatch(r"[A-Za-z0-9_.-]{1,128}", used) for used in train.used)
        assert len([line for line in train.history if "train/loss" in line]) == STEPS
        assert [line["composition.nrows"] for line in select.history if "k" in line] == [2]
    assert sync(runs, logger(out)) == SyncCounts(0, len(runs))


def own(run: Offline) -> dict[str, str]:
    """The artifacts of the store that ``run`` made, without wandb's of its tables."""
    return {name: digest for name, digest in run.made.items() if not name.startswith("run-")}


def test_a_run_that_cannot_be_written_whole_is_not_said_to_be(tmp_path: Path) -> None:
    """A file of an artifact that is gone: told, and written once it is back."""
    world = make(tmp_path / "world", "org/set")
    runs = ledger_runs([world.random], [world.random], ArtifactShelf(world.store))
    folder = next(iter(world.store.glob(world.random.keys["adapter"])))
    weights = folder / "adapter" / "adapter_model.safetensors"
    weights.rename(tmp_path / "kept")
    out = logger(tmp_path / "out")
    assert sync(runs, out) == SyncCounts(3, 0, damaged=2)
    assert not own(one(tmp_path / "out", "train", "random"))
    (tmp_path / "kept").rename(weights)
    assert sync(runs, out) == SyncCounts(2, 1)
    assert own(one(tmp_path / "out", "train", "random"))


def test_configuration_tags_and_scores(written: Path) -> None:
    run = one(written, "evaluate", "random")
    assert run.tags == ("random", "toy", "tiny", "0.3333")
    assert run.config["run"]["train"] == {"lr": 1e-3}
    assert run.config["row"] == "random 0.3333"
    assert run.summary["rel"] == pytest.approx(77.5)
    assert run.summary["score/counting/exact_match"] == 60
    assert run.summary["cost/seconds"] == pytest.approx(46)
    assert run.history[-1]["rel"] == run.summary["rel"]


def test_the_training_curve_step_by_step(written: Path) -> None:
    curve = [line for line in one(written, "train", "random").history if "train/loss" in line]
    assert [line["_step"] for line in curve] == list(range(1, STEPS + 1))
    assert curve[1]["train/loss"] == 3.0


def test_lineage_subset_to_adapter_to_evaluation(written: Path) -> None:
    select, train, evaluate = (
        one(written, job_type, "coincide") for job_type in ("select", "train", "evaluate")
    )
    (subset,) = (name for name in select.made if name.startswith("coincide-toy-"))
    (adapter,) = (name for name in train.made if name.startswith("tiny-coincide-toy-"))
    assert train.used == {subset: select.made[subset]}
    assert evaluate.used == {adapter: train.made[adapter]}
    assert train.made[adapter] != one(written, "train", "random").made.get(adapter)
    assert "adapter/adapter_model.safetensors" in train.files[adapter]
    assert "rows.npy" in select.files[subset]


def test_tables_with_thumbnails_and_the_histogram(written: Path) -> None:
    run = one(written, "select", "coincide")
    (line,) = (line for line in run.history if "clusters.nrows" in line)
    assert line["clusters.nrows"] == 3
    assert line["scores/clusters._type"] == "histogram"
    (table,) = (name for name in run.files if name.endswith("-clusters"))
    pictures = [name for name in run.files[table] if name.endswith(".jpg")]
    assert len(pictures) == 3


def test_a_second_time_writes_nothing(world: World, copy: Path) -> None:
    before = files(copy)
    assert sync(records(world), logger(copy)) == SyncCounts(0, 9)
    assert files(copy) == before


def test_a_ledger_that_grew_replaces_what_it_changed(world: World, tmp_path: Path) -> None:
    shelf = ArtifactShelf(world.store)
    first = ledger_runs([world.random], [world.random], shelf)
    assert sync(first, logger(tmp_path / "out")) == SyncCounts(3, 0)
    before = offline_runs(tmp_path / "out")
    assert sync(
        ledger_runs([world.random], world.ledger, shelf), logger(tmp_path / "out")
    ) == SyncCounts(1, 2)
    after = offline_runs(tmp_path / "out")  # fails when one is there twice
    assert before.keys() == after.keys()
    assert "rel" in next(run for run in after.values() if run.job_type == "evaluate").summary


def test_what_a_killed_writer_left_gives_way(world: World, copy: Path) -> None:
    (folder,) = (copy / "wandb").glob(f"offline-run-*-{records(world)[0].id}")
    half = folder.with_name(f"offline-run-20250101_000000-{records(world)[0].id}")
    shutil.copytree(folder, half)
    (marks(logger(copy)) / f"{records(world)[0].id}.json").unlink()
    assert sync(records(world), logger(copy)) == SyncCounts(1, 8)
    assert len(offline_runs(copy)) == 9
    assert not half.exists()


def test_two_projects_in_one_folder_keep_their_runs(world: World, tmp_path: Path) -> None:
    for project in ("one", "two"):
        out = replace(logger(tmp_path), project=project)
        assert sync(records(world)[:1], out) == SyncCounts(1, 0)
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 2


def test_a_run_that_was_uploaded_is_not_removed(world: World, tmp_path: Path) -> None:
    shelf = ArtifactShelf(world.store)
    sync(ledger_runs([world.random], [world.random], shelf), logger(tmp_path / "out"))
    (old,) = (tmp_path / "out" / "wandb").glob("offline-run-*-evaluate-*")
    (old / f"run-{old.name.split('-', 3)[-1]}.wandb.synced").touch()
    sync(ledger_runs([world.random], world.ledger, shelf), logger(tmp_path / "out"))
    assert old.is_dir()
    assert len(list((tmp_path / "out" / "wandb").glob("offline-run-*-evaluate-*"))) == 2


def test_a_store_that_comes_back_completes_the_run(world: World, tmp_path: Path) -> None:
    bare = ledger_runs([world.random], world.ledger, ArtifactShelf(tmp_path / "nowhere"))
    out = logger(tmp_path / "out")
    assert sync(bare, out) == SyncCounts(3, 0)
    assert not one(tmp_path / "out", "train", "random").made
    assert sync(
        ledger_runs([world.random], world.ledger, ArtifactShelf(world.store)), out
    ) == SyncCounts(3, 0)
    assert one(tmp_path / "out", "train", "random").made
    assert sync(bare, out) == SyncCounts(0, 3)  # a store that is gone again takes nothing away


def test_no_byte_holds_a_secret(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_API_KEY", "HF_TOKEN", "OPENAI_API_KEY", "JUDGE_SECRET"):
        monkeypatch.setenv(name, SECRET.ljust(40, "0") if name == "WANDB_API_KEY" else SECRET)
    monkeypatch.setenv("WANDB_BASE_URL", f"https://me:{SECRET}@wandb.example.org")
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:{SECRET}@127.0.0.1:9")
    result = with_secrets(world.coincide)
    sync(ledger_runs([result], world.ledger, ArtifactShelf(world.store)), logger(tmp_path / "out"))
    kept = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert {p.suffix for p in kept} >= {".wandb", ".log", ".json"}
    assert [p for p in kept if SECRET.encode() in p.read_bytes()] == []


def test_the_writer_gets_no_proxy_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "HF_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    given = process._environment(logger(tmp_path))
    assert SECRET not in given.values()
    assert given["WANDB_ERROR_REPORTING"] == "false"


def test_a_broken_record_does_not_stop_the_others(world: World, tmp_path: Path) -> None:
    found = records(world)
    broken = replace(found[0], id="not/an/id")
    with pytest.raises(NotWritten, match=r"1 of 9 runs"):
        sync([broken, *found[1:]], logger(tmp_path))
    assert len(offline_runs(tmp_path)) == 8


def test_offline_needs_no_home_and_leaves_the_environment(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    before = dict(os.environ)
    sync(records(world)[:1], logger(tmp_path))
    assert list(offline_runs(tmp_path)) == [records(world)[0].id]
    assert dict(os.environ) == before
