"""``launcher=processes``: order, failures and slots with small programs, then the demo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.processes import run_all, visible_gpus
from launch.sweep import Sweep, Task
from tests.command.conftest import command, environment

LOG = """
import os, pathlib, time
def say(text):
    with pathlib.Path("log").open("a") as handle:
        handle.write(text + "\\n")
"""


@pytest.fixture(autouse=True)
def no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    visible_gpus.cache_clear()


def task(folder: Path, name: str, program: str, *after: str, failures: int = 1) -> Task:
    return Task(
        name=name, stage="train", kind="adapter", command=(sys.executable, "-c", program),
        code=str(folder), folder=str(folder), events=str(folder / f"{name}.jsonl"),
        log=str(folder / f"{name}.log"), failures=failures, after=after,
    )  # fmt: skip


def names(tasks: list[Task]) -> list[str]:
    return [task.name for task in tasks]


def test_failures_stop_what_stands_on_them_alone(tmp_path: Path) -> None:
    ok, bad = f"{LOG}say('ok')", "raise SystemExit(3)"
    failed, never = run_all(
        [
            task(tmp_path, "a", ok),
            task(tmp_path, "b", bad),
            task(tmp_path, "c", ok, "a", "b"),
            task(tmp_path, "d", ok, "c"),
            task(tmp_path, "e", ok, "a"),
        ],
        2,
    )
    assert (names(failed), names(never)) == (["b"], ["c", "d"])
    assert (tmp_path / "log").read_text() == "ok\nok\n"


def test_a_failure_is_tried_again(tmp_path: Path) -> None:
    there = "import pathlib; p = pathlib.Path('n'); there = p.exists(); p.touch()"
    program = f"{there}; raise SystemExit(not there)"
    failed, never = run_all([task(tmp_path, "a", program, failures=2)], 1)
    assert not failed and not never
    said = [json.loads(line)["event"] for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert said == ["start", "end", "start", "end"]


def test_so_many_at_once_and_each_slot_its_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4,5")
    visible_gpus.cache_clear()
    program = f"{LOG}say('+' + os.environ['CUDA_VISIBLE_DEVICES']); time.sleep(0.2); say('-')"
    run_all([task(tmp_path, f"t{i}", program) for i in range(5)], 2)
    said = (tmp_path / "log").read_text().split()
    running = [said[: i + 1].count("-") for i in range(len(said))]
    assert max(i + 1 - 2 * ended for i, ended in enumerate(running)) <= 2
    assert {word for word in said if word[0] == "+"} == {"+3,5", "+4"}


def test_a_signal_reaches_the_processes_and_nothing_new_starts(tmp_path: Path) -> None:
    main = (
        "import sys; from pathlib import Path; from launch.processes import run_all;"
        "from tests.launch.test_processes import task, names;"
        "t = lambda n, *a: task(Path('.').absolute(), n, 'import time; time.sleep(60)', *a);"
        "print(*map(names, run_all([t('a'), t('b')], 1)))"
    )
    root = str(Path(__file__).resolve().parents[2])
    child = subprocess.Popen(
        [sys.executable, "-c", main], cwd=tmp_path, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": root},
    )  # fmt: skip
    end = time.monotonic() + 60
    while not (tmp_path / "a.jsonl").is_file() and time.monotonic() < end:
        time.sleep(0.05)
    child.send_signal(signal.SIGTERM)
    said, _ = child.communicate(timeout=60)
    assert said.splitlines() == ["stopped: a", "['a'] ['b']"]


WORDS = (
    "-m", "method=random,el2n", "stages=[features,select]", "data.n=240", "features.shard_rows=64",
    "launcher=processes",
)  # fmt: skip


def demo(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    line = command(*WORDS, *words)
    return subprocess.run(line, cwd=folder, env=environment(), capture_output=True, text=True)


@pytest.mark.slow
def test_the_demo_in_processes(tmp_path: Path) -> None:
    found = demo(tmp_path, "seed=0,1")
    assert found.returncode == 0, found.stdout + found.stderr
    assert "left out: method=el2n seed=1" in found.stdout
    # data with its scan, reference; pass; scores; subsets: no target, whose processor is enough
    assert found.stdout.count("done: ") == 2 + 1 + 1 + 3
    assert len(list((tmp_path / "store" / "subset").glob("*/manifest.json"))) == 3
    (sweep,) = (tmp_path / "sweeps").glob("*/sweep.json")
    assert len(Sweep(sweep.parent).tasks()) == 7
    assert "Plan of 3 runs: 0 jobs" in demo(tmp_path, "seed=0,1").stdout


@pytest.mark.slow
def test_a_failed_process_is_told_with_its_log(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "data").write_text("in the way")
    found = demo(tmp_path, "method=random")
    assert found.returncode == 2
    assert "last lines of" in found.stderr and "To do it again here:" in found.stderr
    (never,) = [line for line in found.stderr.splitlines() if line.startswith("not run, since")]
    assert "subset-random-" in never
