"""Runs over the wire, to a server that keeps what wandb's own client tells it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from coincide.ledger.evidence import ArtifactShelf
from tests.track.server import Kept, Server, serving
from tests.track.world import SECRET, STEPS, World, with_secrets
from track.records import WandbRun
from track.replay import ledger_runs
from track.settings import Logger
from track.sync import NotWritten, SyncCounts, marks, sync

pytestmark = pytest.mark.timeout(300)
KEY = "0123456789" * 4


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving() as found:
        monkeypatch.setenv("WANDB_BASE_URL", found.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield found
    assert not found.unknown, found.unknown[0]


def logger(folder: Path) -> Logger:
    return Logger(mode="online", entity="someone", dir=str(folder), timeout=60)


def records(world: World) -> list[WandbRun]:
    return ledger_runs(world.ledger, world.ledger, ArtifactShelf(world.store))


def one(server: Server, job_type: str, method: str) -> Kept:
    (found,) = (
        kept
        for kept in server.runs.values()
        if kept.fields["jobType"] == job_type
        and json.loads(kept.fields["config"])["method_name"]["value"] == method
    )
    return found


def curve(kept: Kept) -> list[int]:
    return [line["_step"] for line in kept.history if "train/loss" in line]


def test_all_arrives_once_and_again_nothing_is_said(
    server: Server, world: World, tmp_path: Path
) -> None:
    assert sync(records(world), logger(tmp_path)) == SyncCounts(9, 0)
    assert len(server.runs) == 9
    assert {kept.fields["groupName"] for kept in server.runs.values()} == {"sweep-toy"}
    assert curve(one(server, "train", "random")) == list(range(1, STEPS + 1))
    assert one(server, "evaluate", "random").summary["rel"] == pytest.approx(77.5)
    assert not any("host" in kept.fields or "repo" in kept.fields for kept in server.runs.values())
    said = len(server.bytes)
    assert sync(records(world), logger(tmp_path)) == SyncCounts(0, 9)
    assert len(server.bytes) == said


def test_lineage_and_uploads(server: Server, world: World, tmp_path: Path) -> None:
    sync(ledger_runs([world.coincide], world.ledger, ArtifactShelf(world.store)), logger(tmp_path))
    (subset,) = (name for name in server.made if name.startswith("subset:coincide-toy"))
    (adapter,) = (name for name in server.made if name.startswith("adapter:"))
    select, train, evaluate = (run.id for run in records(world) if "coincide" in repr(run.config))
    assert server.made[subset] - {None} == {select}  # type: ignore[arg-type]
    assert server.made[adapter] - {None} == {train}  # type: ignore[arg-type]
    assert server.used == {subset: {train}, adapter: {evaluate}}
    weights = f"/upload/{adapter}/adapter/adapter_model.safetensors"
    assert len(server.uploads[weights]) == 4096
    pictures = [name for name in server.uploads if "clusters" in name and name.endswith(".jpg")]
    assert len(pictures) == 3


def test_few_calls_for_a_run(server: Server, world: World, tmp_path: Path) -> None:
    sync([run for run in records(world) if run.job_type == "train"][:1], logger(tmp_path))
    streamed = [body for body in server.bytes if b"/file_stream\n" in body[:200]]
    assert len(streamed) <= 4  # for 30 steps
    assert sum(server.asked.values()) <= 40


def test_marks_that_were_lost_cost_no_line_twice(
    server: Server, world: World, tmp_path: Path
) -> None:
    train = [run for run in records(world) if run.job_type == "train"][:1]
    sync(train, logger(tmp_path))
    shutil.rmtree(marks(logger(tmp_path)))
    assert sync(train, logger(tmp_path)) == SyncCounts(1, 0)
    assert len(server.runs) == 1
    assert curve(next(iter(server.runs.values()))) == list(range(1, STEPS + 1))


def test_a_full_run_that_comes_later_amends_the_evaluation_alone(
    server: Server, world: World, tmp_path: Path
) -> None:
    shelf = ArtifactShelf(world.store)
    sync(ledger_runs([world.random], [world.random], shelf), logger(tmp_path))
    before = one(server, "evaluate", "random")
    assert "rel" not in before.summary
    server.made.clear()
    later = ledger_runs([world.random], world.ledger, shelf)
    assert sync(later, logger(tmp_path)) == SyncCounts(1, 2)
    assert one(server, "evaluate", "random").summary["rel"] == pytest.approx(77.5)
    assert not any(name.startswith(("subset:", "adapter:")) for name in server.made)


def test_what_a_server_that_was_down_missed_comes_later(
    server: Server, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = records(world)[:3]
    sync(few[:1], logger(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY")  # the marks are the server's, whoever asks
    with pytest.raises(NotWritten):
        sync(few, logger(tmp_path))
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert sync(few, logger(tmp_path)) == SyncCounts(2, 1)
    assert len(server.runs) == 3


@pytest.mark.parametrize("command", ["sync", "beta sync"])
def test_offline_files_upload_with_lineage_and_the_store_stays_whole(
    command: str, server: Server, world: World, tmp_path: Path
) -> None:
    offline = Logger(mode="offline", entity="someone", dir=str(tmp_path))
    sync(ledger_runs([world.coincide], world.ledger, ArtifactShelf(world.store)), offline)
    before = {p: p.read_bytes() for p in world.store.rglob("*") if p.is_file()}
    folders = map(str, sorted((tmp_path / "wandb").glob("offline-run-*")))
    subprocess.run(
        [sys.executable, "-m", "wandb", *command.split(), *folders], cwd=tmp_path,
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    assert curve(one(server, "train", "coincide")) == list(range(1, STEPS + 1))
    assert {name.split(":")[0] for name in server.used} == {"subset", "adapter"}
    assert {p: p.read_bytes() for p in world.store.rglob("*") if p.is_file()} == before


def test_no_secret_on_the_wire(
    server: Server, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_TOKEN", "OPENAI_API_KEY", "JUDGE_SECRET"):
        monkeypatch.setenv(name, SECRET)
    result = with_secrets(world.coincide)
    sync(ledger_runs([result], world.ledger, ArtifactShelf(world.store)), logger(tmp_path))
    told = [*server.bytes, *server.uploads.values()]
    assert not [body for body in told if SECRET.encode() in body or KEY.encode() in body]
    kept = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert [p for p in kept if SECRET.encode() in p.read_bytes()] == []
    assert [p for p in kept if KEY.encode() in p.read_bytes()] == []


@pytest.mark.parametrize("reached", [True, False])
def test_a_password_in_the_proxys_address_is_in_no_file(
    reached: bool, server: Server, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is reached through a proxy alone, or not at all, which wandb logs at length."""
    place = server.url.removeprefix("http://") if reached else "127.0.0.1:9"
    server.url = "http://wandb.invalid"
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://someone:{SECRET}@{place}")
    train = [run for run in records(world) if run.job_type == "train"][:1]
    told = ""
    if reached:
        assert sync(train, logger(tmp_path)) == SyncCounts(1, 0)
    else:
        with pytest.raises(NotWritten) as error:
            sync(train, replace(logger(tmp_path), timeout=4))
        told = str(error.value)
        logs = [path.read_text() for path in tmp_path.rglob("debug-internal.log")]
        assert any("127.0.0.1:9" in log for log in logs), "it was tried, and logged"
    encoded = b64encode(f"someone:{SECRET}".encode())
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not [f for f in (*files, told.encode()) if SECRET.encode() in f or encoded in f]
