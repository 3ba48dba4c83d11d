"""The whole of it on the shrunk demo: run, repeat, kill everywhere, sweep, bring a subset."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from tests.command.conftest import SMALL, Run, command, environment
from tests.storm import damage, kills

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the demo ran through once, undisturbed."""
    folder = tmp_path_factory.mktemp("finished")
    found = subprocess.run(
        command(*SMALL), cwd=folder, env=environment(), capture_output=True, text=True, timeout=500
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return folder


def subset(folder: Path) -> bytes:
    (path,) = (folder / "store" / "subset").glob("coincide-*/rows.npy")
    return path.read_bytes()


def scores(folder: Path) -> object:
    (path,) = (folder / "ledger").glob("coincide-*.json")
    return json.loads(path.read_text())["scores"]


def test_every_stage_left_what_it_promises(finished: Path) -> None:
    rows = np.load(next((finished / "store" / "subset").glob("*/rows.npy")))
    assert len(rows) == 48
    assert (np.diff(rows) > 0).all()
    folder = next((finished / "store" / "subset").glob("*/"))
    records = json.loads((folder / "subset.json").read_text())
    assert len(records) == 48
    assert next((finished / "store" / "adapter").glob("*/adapter/adapter_model.safetensors"))
    benchmarks = list((finished / "store" / "eval").glob("*/samples.jsonl"))
    assert len(benchmarks) == 7
    assert all(len(path.read_text().splitlines()) == 12 for path in benchmarks)
    assert len({score["benchmark"] for score in scores(finished)}) == 7  # type: ignore[attr-defined]
    for ending in ("html", "md", "csv", "tex", "json"):
        assert (finished / "reports" / f"report.{ending}").stat().st_size > 100
    assert not list((finished / "store").rglob("*.pkl"))
    assert not list((finished / "store").rglob(".partial*"))


@pytest.mark.fresh
def test_asked_again_everything_is_cached_and_no_model_library_is_loaded(
    finished: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    before = {p: p.stat().st_mtime_ns for p in (finished / "store").rglob("manifest.json")}
    found = run(*SMALL, cwd=finished)
    assert found.returncode == 0, found.stderr
    assert "Everything is cached" in found.stdout
    assert re.search(r"\| +hydra$", found.stderr, re.MULTILINE)
    assert not re.search(r"\| +(torch|transformers|lmms_eval)$", found.stderr, re.MULTILINE)
    assert before == {p: p.stat().st_mtime_ns for p in (finished / "store").rglob("manifest.json")}


STAGES = {
    "features": "features/.partial-*/values-00001.npy",
    "select": "clusters/.partial-*",
    "train": "adapter/.partial-*/checkpoints/*",
    "evaluate": "eval/attributes-*/manifest.json",
}


def kill_when(folder: Path, pattern: str) -> bool:
    """Run in ``folder`` and kill -9 the whole process group once ``pattern`` exists."""
    child = subprocess.Popen(
        command(*SMALL), cwd=folder, env=environment(), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while child.poll() is None:
        if list((folder / "store").glob(pattern)):
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            return True
        time.sleep(0.01)
    return False


def test_killed_in_every_stage_the_result_is_the_same(
    finished: Path, tmp_path: Path, run: Run
) -> None:
    killed = {stage: kill_when(tmp_path, pattern) for stage, pattern in STAGES.items()}
    assert all(killed.values()), killed
    found = run(*SMALL)
    assert found.returncode == 0, found.stdout + found.stderr
    assert subset(tmp_path) == subset(finished)
    assert scores(tmp_path) == scores(finished)


def test_a_flipped_byte_in_a_feature_shard_is_repaired(
    finished: Path, tmp_path: Path, run: Run
) -> None:
    import shutil

    shutil.copytree(finished / "store", tmp_path / "store")
    shutil.rmtree(tmp_path / "store" / "subset")
    shutil.rmtree(tmp_path / "store" / "clusters")
    (shard,) = (tmp_path / "store" / "features").glob("*/values-00002.npy")
    good = shard.read_bytes()
    shard.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    found = run(*SMALL, "stages=[features,select]")
    assert found.returncode == 0, found.stderr
    assert "hash mismatch in values-00002.npy" in found.stdout
    assert shard.read_bytes() == good
    assert subset(tmp_path) == subset(finished)


def test_a_short_storm_over_the_selection_holds(finished: Path, tmp_path: Path) -> None:
    """``python -m tests.storm`` with few kills: docs/RELIABILITY.md has what it gave with many."""
    found = kills.storm("select", 2, finished, tmp_path, seed=1)
    assert sum(found.kills.values()) == 2
    assert found.held, found.row()


@pytest.mark.parametrize("name", ["eval: a byte of result.json", "adapter: a byte"])
def test_damage_never_reaches_the_ledger(finished: Path, tmp_path: Path, name: str) -> None:
    (case,) = [case for case in damage.cases() if case.name.startswith(name)]
    seen = damage.try_case(case, finished, tmp_path)
    assert seen == ("refused by name" if case.kind == "adapter" else "repaired")


def test_a_sweep_goes_on_after_a_failure_and_lists_it(finished: Path, run: Run) -> None:
    found = run("-m", *SMALL, "method=random", "budget=0.2,500", "stages=[select]", cwd=finished)
    assert found.returncode != 0
    assert "1 of 2 runs failed" in found.stderr
    assert "budget=500" in found.stderr
    assert list((finished / "store" / "subset").glob("random-demo-0.2-s0-*"))


def test_a_subset_made_elsewhere_is_trained_on(finished: Path, run: Run) -> None:
    rows = finished / "mine.json"
    rows.write_text(json.dumps([5, 3, 100]))
    found = run(
        *SMALL, "method=from_file", "method.path=mine.json", "stages=[select]", cwd=finished
    )
    assert found.returncode == 0, found.stderr
    (path,) = (finished / "store" / "subset").glob("from_file-*/rows.npy")
    assert np.load(path).tolist() == [3, 5, 100]


def test_the_health_gate_stops_before_training(finished: Path, run: Run) -> None:
    words = [word for word in SMALL if not word.startswith("health")]
    found = run(*words, "health.largest_cluster=0.01", "budget=0.3", cwd=finished)
    assert found.returncode == 2
    assert "health gate is closed" in found.stderr
    assert "health.largest_cluster=0.01" in found.stderr
    assert len(list((finished / "store" / "adapter").glob("*/"))) == 1
