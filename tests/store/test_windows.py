"""Killed at any moment, an artifact is whole or goes on."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from coincide.store import Store, hashes
from tests.store.things import flip, step


def killed_at(root: str, log: str, name: str, number: int) -> None:
    """Build, or repair, in a process that dies at its ``number``-th call of ``os.<name>``."""
    real, calls = getattr(os, name), []

    def deadly(*args: Any, **more: Any) -> Any:
        calls.append(args)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **more)

    setattr(os, name, deadly)
    store, wanted = Store(Path(root)), step(5, log=log)
    store.verify(wanted) if store.find(wanted) else store.ensure(wanted)


def test_a_forked_child_locks_what_its_parent_locked_after_an_evaluation(tmp_path: Path) -> None:
    from lmms_eval.evaluator import _enable_reentrant_filelocks

    _enable_reentrant_filelocks()  # what every evaluation does to file locks, for good
    wanted = step(5)
    flip(Store(tmp_path).ensure(wanted).path / "part-1.json")
    child = multiprocessing.get_context("fork").Process(
        target=Store(tmp_path).verify, args=[wanted]
    )
    child.start()
    child.join()
    assert child.exitcode == 0


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("name", ["rename", "replace", "fsync", "unlink", "utime"])
def test_killed_at_any_call_it_is_whole_or_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, damaged: bool
) -> None:
    monkeypatch.setattr(hashes, "SETTLED", 0.0)  # hashes are noted, too
    context = multiprocessing.get_context("fork")
    log, good = tmp_path / "log", {f"part-{i}.json": [i, 5] for i in range(4)}
    for number in range(1, 30):
        root = tmp_path / f"s{number}"
        wanted = step(5, log=str(log))
        if damaged:
            flip(Store(root).ensure(wanted).path / "part-1.json")
        child = context.Process(target=killed_at, args=(str(root), str(log), name, number))
        child.start()
        child.join()
        if not damaged:
            assert all(".partial" not in str(a.path) for a in Store(root).artifacts("things"))
        artifact = Store(root).verify(Store(root).ensure(wanted) and wanted)
        assert {n: json.loads((artifact.path / n).read_text()) for n in artifact.files} == good
        assert not list(root.rglob(".partial*")) and not list(root.rglob(".claimed*")), number
        Store(root).tidy(artifact, wanted)
        assert not list(root.rglob(".tmp-*"))
        assert not list(artifact.path.glob(".*"))
        if child.exitcode == 0:
            return
    raise AssertionError("never came to its end")


def test_killed_after_the_manifest_it_only_has_to_be_renamed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    wanted = step(5, log=str(log))
    path = Store(tmp_path / "s").ensure(wanted).path
    os.rename(path, path.with_name(f".partial-{wanted.digits}"))
    store = Store(tmp_path / "s")
    assert store.find(wanted) is None
    assert list(store.manifests("things")) == []
    log.unlink()
    assert store.ensure(wanted).damaged() == []
    assert not log.exists()
    assert "killed at its end" in capsys.readouterr().out
