"""Several processes at one artifact, with locks and without."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import Timeout

from coincide.store import Build, Step, Store, attempts
from coincide.system.files import write_json
from coincide.system.processes import has_locks, locked, this_process
from tests.store.things import numbers, run_together, step, without_lock


def slow(build: Build) -> dict[str, int]:
    with Path(build.step.config["log"]).open("a") as handle:
        handle.write("built\n")
    time.sleep(0.3)
    return numbers(build)


def race(root: str, log: str) -> None:
    Store(Path(root)).ensure(Step("things", "slow", 1, {"log": log}, slow))


def without_locks(root: str, log: str) -> None:
    from contextlib import nullcontext

    store = Store(Path(root))
    store._lock = lambda step: nullcontext(False)  # type: ignore[method-assign,assignment]
    store.ensure(Step("things", "slow", 1, {"log": log}, slow))


@pytest.mark.parametrize(("target", "builds"), [(race, 1), (without_locks, None)])
def test_ten_processes_agree_on_one_artifact(tmp_path: Path, target: object, builds: int) -> None:
    log = tmp_path / "log"
    context = multiprocessing.get_context("fork")
    root = str(tmp_path / "s")
    children = [context.Process(target=target, args=(root, str(log))) for _ in range(10)]  # type: ignore[arg-type]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 10
    assert builds is None or log.read_text().count("built") == builds
    artifact = Store(tmp_path / "s").artifact(Step("things", "slow", 1, {"log": str(log)}, slow))
    assert artifact.damaged() == []
    assert not list((tmp_path / "s").rglob(".partial*"))


def lockless(root: str, log: str, seconds: float, parts: int = 4) -> None:
    """Build slowly where no lock can be had; with less than four parts it is killed then."""

    def build(build: Build) -> dict[str, int]:
        with Path(log).open("a") as handle:
            handle.write(f"{build.dir.name}\n")
        for i in range(4):
            if i == parts:
                os.kill(os.getpid(), signal.SIGKILL)
            if not (build.dir / f"part-{i}.json").exists():
                write_json(build.dir / f"part-{i}.json", [i, os.getpid()])
            time.sleep(seconds)
        return {"pid": os.getpid()}

    without_lock(Path(root)).ensure(Step("things", "slow", 1, {}, build))


def test_without_locks_an_artifact_is_of_one_process(tmp_path: Path) -> None:
    log = tmp_path / "log"
    calls = [(lockless, (str(tmp_path / "s"), str(log), 0.1))] * 5
    assert run_together(calls, tmp_path / "go") == [0] * 5
    (folder,) = (tmp_path / "s" / "things").glob("slow-*")
    pids = {json.loads((folder / f"part-{i}.json").read_text())[1] for i in range(4)}
    assert len(pids) == 1
    assert not list((tmp_path / "s").rglob(".partial*"))


def test_without_locks_the_work_of_a_dead_process_is_gone_on_with(tmp_path: Path) -> None:
    log, root = tmp_path / "log", str(tmp_path / "s")
    assert run_together([(lockless, (root, str(log), 0.0, 3))], tmp_path / "go") == [-9]
    (partial,) = (tmp_path / "s" / "things").glob(".partial-*")
    before = json.loads((partial / "part-0.json").read_text())
    assert run_together([(lockless, (root, str(log), 0.0))], tmp_path / "go") == [0]
    (folder,) = (tmp_path / "s" / "things").glob("slow-*")
    assert json.loads((folder / "part-0.json").read_text()) == before
    assert not list((tmp_path / "s").rglob(".partial*"))


def test_a_silent_process_of_another_machine_is_waited_for_and_then_not_disturbed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    partial = tmp_path / "things" / f".partial-{step(1).digits}"
    partial.mkdir(parents=True)
    write_json(partial / "part-0.json", [0, 1])
    (partial / ".owner-node7-0123abcd-4711-99").touch()
    monkeypatch.setattr(attempts, "LEASE", 0.6)
    used = []

    def build(build: Build) -> dict[str, int]:
        used.append(build.dir)
        return numbers(build)

    store = Store(tmp_path)
    store.ensure(replace(step(1), build=build))
    told = capsys.readouterr().out
    assert "waiting for process 4711 on node7, which builds it" in told
    assert used != [partial], "should it wake up, it writes into a folder that is gone"
    assert not list(tmp_path.rglob(".partial*"))


def test_a_process_that_lost_its_attempt_uses_the_other_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def overtaken(build: Build) -> dict[str, int]:
        facts = numbers(build)
        os.rename(build.dir, tmp_path / "taken")  # as another does that takes it for dead
        (tmp_path / "taken" / f".owner-{this_process()}").unlink()
        os.rename(tmp_path / "taken", build.dir)
        without_lock(tmp_path / "s").ensure(step(1))
        build.dir.mkdir()
        return facts

    artifact = without_lock(tmp_path / "s").ensure(replace(step(1), build=overtaken))
    assert artifact.damaged() == []
    assert "another process finished it first" in capsys.readouterr().out


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_lock_file_is_no_lock_where_files_cannot_be_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """One that a killed process left, or that came with a copied store, is not waited for."""

    def none(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    assert has_locks(tmp_path)
    with locked(tmp_path / "lock") as held:
        assert held
        with pytest.raises(Timeout), locked(tmp_path / "lock", timeout=0):
            pass
    assert (tmp_path / "lock").exists()
    monkeypatch.setattr(fcntl, "flock", none)
    with locked(tmp_path / "lock") as held:
        assert not held
    assert not has_locks(tmp_path)
    Store(tmp_path / "s").ensure(step(1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", "s"]
