"""The stage as the pipeline calls it: real subprocesses, kills, failures, resumption."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from coincide.schema import UserError
from coincide.store import Store
from coincide.system.processes import has_locks
from eval import worker
from eval.process import _message, follow
from eval.request import BenchmarkJob, EvaluationRequest
from eval.stage import evaluate
from eval.suite import TASKS
from tests.eval.bench import ROWS, samples, scores, steps
from tests.eval.inside import worker_inside

PROJECT = Path(__file__).parents[2]
NAMES = "attributes presence choice charts"
KILLED_AFTER_TWO = """
import os, signal, sys
from pathlib import Path
from coincide.store import Build, Store
from eval.stage import evaluate
from tests.eval.bench import steps

commit, done = Build.commit, []

def commit_then_die(build, facts=None):
    artifact = commit(build, facts)
    done.append(artifact)
    if len(done) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return artifact

Build.commit = commit_then_die
store = Store(Path(sys.argv[1]))
evaluate(store, steps(store, sys.argv[2], batch_size=8, device="cpu"))
"""


def contents(store: Store, **changes: object) -> dict[str, tuple[bytes, bytes]]:
    paths = {s.config["benchmark"]: store.path(s) for s in steps(store, NAMES, **changes)}
    return {
        name: ((path / "result.json").read_bytes(), (path / "samples.jsonl").read_bytes())
        for name, path in paths.items()
    }


def running(word: str) -> bool:
    """Whether a process has ``word`` in its command line."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word in entry.read_text():
                return True
        except OSError:
            continue
    return False


@pytest.mark.slow
def test_killed_resumed_and_repaired(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between benchmarks and resumed at another batch size: the bytes of a whole run.

    What is killed is a process with a process of its own; before and after, the worker is here.
    """
    worker_inside(monkeypatch)
    other = Store(tmp_path / "other")
    evaluate(other, steps(other, NAMES, batch_size=64, device="cpu"))
    whole = contents(other)

    command = [sys.executable, "-c", KILLED_AFTER_TWO, str(store.root), NAMES]
    killed = subprocess.run(command, cwd=PROJECT, env={**os.environ, "PYTHONPATH": str(PROJECT)})
    assert killed.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 20
    while running(str(store.root)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not running(str(store.root)), "the evaluation process outlived its parent"
    wanted = steps(store, NAMES, batch_size=1, device="cpu")
    kept = [store.find(step) for step in wanted]
    assert [artifact is not None for artifact in kept] == [True, True, False, False]

    artifacts = evaluate(store, wanted)
    assert contents(store) == whole
    assert [a.manifest for a in artifacts[:2]] == [a.manifest for a in kept if a]
    assert evaluate(store, wanted) == artifacts, "all cached: nothing runs"

    damaged = store.path(wanted[3]) / "samples.jsonl"
    damaged.write_bytes(damaged.read_bytes()[:-9] + b"corrupt!\n")
    store.verify(wanted[3])
    assert contents(store) == whole

    presence = artifacts[1]
    assert set(scores(presence)) == {"accuracy", "f1", "precision", "recall", "yes_ratio"}
    assert scores(presence)["accuracy"].n == len(samples(presence)) == ROWS
    assert presence.facts["n"] == ROWS and presence.facts["primary"] == "accuracy"
    batches = [artifact.facts["batch_size"] for artifact in artifacts]
    assert batches == [8, 8, 1, 1], "kept in the record, outside the key"


@pytest.mark.slow
def test_a_failing_benchmark_is_named_and_the_others_are_kept(store: Store) -> None:
    good, bad = steps(store, "attributes counting")
    broken = replace(bad.build.benchmark, metrics={"accuracy": "anls"})
    bad = replace(bad, build=replace(bad.build, benchmark=broken))
    with pytest.raises(UserError) as error:
        evaluate(store, [bad, good])
    text = str(error.value)
    assert "1 of 2 benchmarks failed" in text
    assert "counting: benchmark counting: metric accuracy is 'anls'" in text
    log = next((store.root / ".runs").glob("*/log.txt"))
    assert str(log) in text and log.read_text().splitlines()[-1] in text
    assert store.find(good) is not None and store.find(bad) is None


def test_a_worker_that_cannot_prepare_says_so_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    job = BenchmarkJob(
        "counting", "demo_counting", {"accuracy": "exact_match"}, "accuracy", "", str(tmp_path),
        str(TASKS / "demo"), {"test": str(tmp_path / "gone.parquet")},
    )  # fmt: skip
    request = EvaluationRequest(
        "m", None, "tiny", "float32", "cpu", 1, 1, str(tmp_path / "cache"), (job,)
    )
    request.write(tmp_path / "request.json")
    sent: list[dict[str, str]] = []
    send = lambda event, **content: sent.append({"event": event, **content})  # noqa: E731
    monkeypatch.setattr(worker, "_channel", lambda: send)
    monkeypatch.setattr(worker, "offline", lambda cache: None)
    assert worker.main(tmp_path / "request.json") == 1
    [message] = sent
    assert message["event"] == "failed" and "gone.parquet" in message["why"]
    assert "Traceback" in capfd.readouterr().err


def test_a_worker_that_leaves_without_a_word_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 0 is no proof: each benchmark has to be reported."""
    leaves = tmp_path / "leaves"
    leaves.write_text("#!/bin/sh\necho gone quietly >&2\n")
    leaves.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(leaves))
    with pytest.raises(UserError, match=r"exit code 0 before all benchmarks(?s:.*)gone quietly"):
        list(follow(tmp_path, ["one", "two"]))


def test_a_worker_that_died_without_a_word(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("".join(f"line {i}\n" for i in range(99)))
    text = _message(-signal.SIGKILL, {}, 3, log)
    assert "SIGKILL (often the system running out of memory)" in text
    assert "line 98" in text and "line 80" not in text


@pytest.mark.parametrize("works", [True, False])
def test_datasets_are_prepared_where_files_can_be_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, works: bool
) -> None:
    """``datasets`` locks every table; on some network file systems it would load none."""
    real = fcntl.flock

    def flock(file: int, operation: int) -> None:
        if not works and Path(f"/proc/self/fd/{file}").readlink().is_relative_to(tmp_path):
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        real(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(worker.os, "environ", dict(os.environ))
    worker.offline(tmp_path / "cache")
    tables = Path(worker.os.environ["HF_DATASETS_CACHE"])
    assert (tables == tmp_path / "cache" / "datasets") == works
    assert has_locks(tables)
    assert not list((tmp_path / "cache" / "datasets").iterdir()), "nothing is left of looking"
