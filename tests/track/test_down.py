"""wandb is down, deaf, or refuses: nothing but a warning comes of it, and later all is written."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coincide.ledger.evidence import ArtifactShelf
from tests.track.reader import offline_runs
from tests.track.world import World
from track.live import PAUSE, Live
from track.process import Child, answer
from track.records import WandbRun
from track.replay import ledger_runs
from track.settings import Logger
from track.sync import NotWritten, marks, sync

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def records(world: World) -> list[WandbRun]:
    return ledger_runs(world.ledger, world.ledger, ArtifactShelf(world.store))


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server that takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(64)
        reach(monkeypatch, server.getsockname()[1])
        yield


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port at which nobody listens."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    reach(monkeypatch, port)


def reach(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)


def online(folder: Path) -> Logger:
    return Logger(mode="online", entity="someone", dir=str(folder), timeout=4)


@pytest.mark.parametrize("server", ["deaf", "refusing"])
def test_the_wait_is_bounded_and_leaves_no_process(
    server: str, request: pytest.FixtureRequest, records: list[WandbRun], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    request.getfixturevalue(server)
    mark = uuid.uuid4().hex
    monkeypatch.setenv("TRACK_TEST", mark)
    with pytest.raises(NotWritten):
        sync(records, online(tmp_path))
    assert list(marks(online(tmp_path)).glob("*.json")) == []
    while ours(mark):
        time.sleep(0.2)


def ours(mark: str) -> list[int]:
    """Other processes that were started from this one."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            inherited = f"TRACK_TEST={mark}".encode() in path.read_bytes()
        except OSError:
            continue
        if inherited and int(path.parent.name) != os.getpid():
            found.append(int(path.parent.name))
    return found


def test_without_an_account_the_reason_is_told(
    records: list[WandbRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(NotWritten, match=r"(?i)api.key|login"):
        sync(records, replace(online(tmp_path), timeout=60))


def test_a_stage_goes_on_with_one_warning_and_a_later_sync_is_complete(
    deaf: None, records: list[WandbRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    live = Live(online(tmp_path), tmp_path / "ledger")
    tried = []

    def runs(stage: str, *_: Any) -> list[WandbRun]:
        tried.append(stage)
        return records

    monkeypatch.setattr(live, "_runs", runs)
    live.after("select", None)  # type: ignore[arg-type]
    live.after("train", None)  # type: ignore[arg-type]
    warning = capsys.readouterr().err
    assert tried == ["select"]  # the next stage does not wait again
    assert warning.count("warning: wandb was not written") == 1
    assert "coincide.dashboard sync" in warning
    live.quiet_until -= PAUSE
    live.after("train", None)  # type: ignore[arg-type]
    assert tried == ["select", "train"]
    done = sync(records, Logger(mode="offline", dir=str(tmp_path)))
    assert (done.written, len(offline_runs(tmp_path))) == (9, 9)


def test_answers_that_come_together_are_taken_one_by_one(tmp_path: Path) -> None:
    program = 'import sys; sys.stdout.write(\'{"a": 1}\\n{"a": 2}\\n{"a"\')'
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    process.wait()
    child = Child(process, tmp_path / "errors")
    assert [answer(child, 5), answer(child, 5), answer(child, 5)] == [{"a": 1}, {"a": 2}, None]


def test_a_process_that_lost_us_ends_itself(tmp_path: Path) -> None:
    code = "import signal; from track.process import *; order_and_answers(); print(signal.alarm(0))"
    found = subprocess.run(
        [sys.executable, "-c", code], input='{"seconds": 10.5}', capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert found.stderr.strip() in ("41", "40")  # stdout is for answers alone


def test_no_experiment_nothing_to_compare(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Live(online(tmp_path), tmp_path).finish([])
    assert capsys.readouterr().err == ""


def test_off_is_off(tmp_path: Path) -> None:
    Live(Logger(dir=str(tmp_path)), tmp_path).after("select", None)  # type: ignore[arg-type]
    assert list(tmp_path.glob("wandb*")) == []
