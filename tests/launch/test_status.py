"""How a job stands, told from its events and the queue."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from coincide.schema import UserError
from launch.cluster import Queued
from launch.states import Status, format_seconds, live_tasks, remaining_seconds, statuses
from launch.status import failure_text
from launch.supervise import given_up
from launch.sweep import Sweep, Task, open_sweep


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    made = Sweep(tmp_path / "sweeps" / "demo-1-run-0")
    for name in ("jobs", "logs", "runs"):
        (made.path / name).mkdir(parents=True)
    (made.path / "sweep.json").write_text(json.dumps({"folder": str(tmp_path), "runs": []}))
    return made


def task(sweep: Sweep, name: str, *events: dict[str, Any], **more: Any) -> Task:
    made = Task(
        name=name, stage="train", kind="adapter", command=("true",), code="/code",
        folder=str(sweep.path), events=str(sweep.path / "jobs" / f"{name}.events.jsonl"),
        log=str(sweep.path / "logs" / f"{name}.log"), failures=2, **more,
    )  # fmt: skip
    made.write(sweep.file(name))
    now = time.time() - 100
    lines = [json.dumps({"time": now + i, **event}) + "\n" for i, event in enumerate(events)]
    Path(made.events).write_text("".join(lines))
    return made


SUBMIT = {"event": "submit", "job": "1"}
START = {"event": "start", "job": "1"}


def end(how: str, code: int = 1) -> dict[str, Any]:
    return {"event": "end", "how": how, "code": code}


def queued(sweep: Sweep, name: str, state: str, reason: str = "None") -> dict[str, Queued]:
    return {"1": Queued("1", state, reason, "0:01", str(sweep.file(name)))}


def one(sweep: Sweep, jobs: dict[str, Queued] | None = None) -> Status:
    (found,) = statuses(sweep, jobs or {})
    return found


@pytest.mark.parametrize(
    ("events", "state", "why"),
    [
        ([SUBMIT], "cancelled", "before it started"),
        ([SUBMIT, START], "cancelled", "killed without a word"),
        ([SUBMIT, START, end("stopped", -15)], "cancelled", "stopped by SIGTERM"),
        ([SUBMIT, START, end("failed", 3)], "failed", "exit code 3, 1 of 2 attempts"),
        ([SUBMIT, START, end("told", -12), START, end("done", 0)], "done", ""),
        ([SUBMIT, START, end("failed"), SUBMIT], "cancelled", "before it started"),
    ],
)
def test_without_a_job_in_the_queue(
    events: list[dict[str, Any]], state: str, why: str, sweep: Sweep
) -> None:
    task(sweep, "a", *events)
    found = one(sweep)
    assert (found.state, found.why) == (state, why)


def test_the_queue_knows_better(sweep: Sweep) -> None:
    task(sweep, "a", SUBMIT, START, end("told"))
    assert one(sweep, queued(sweep, "a", "PENDING", "BeginTime")).why == (
        "job 1, BeginTime, requeued"
    )
    assert one(sweep, queued(sweep, "a", "RUNNING")).state == "running"
    assert one(sweep, queued(sweep, "a", "CANCELLED")).state == "cancelled"
    never = queued(sweep, "a", "PENDING", "DependencyNeverSatisfied")
    assert one(sweep, never).state == "cancelled"


def test_a_job_of_another_sweep_with_the_same_number_is_not_ours(sweep: Sweep) -> None:
    task(sweep, "a", SUBMIT)
    other = {"1": Queued("1", "RUNNING", "None", "0:01", "/elsewhere/jobs/a.json")}
    assert one(sweep, other).state == "cancelled"
    assert live_tasks(sweep.path.parent, other) == {}
    ours = queued(sweep, "a", "PENDING")
    assert [t.name for t in live_tasks(sweep.path.parent, ours).values()] == ["a"]


def test_artifacts_count_for_more_than_what_was_noted(sweep: Sweep, tmp_path: Path) -> None:
    there = tmp_path / "manifest.json"
    there.write_text("{}")
    task(sweep, "a", SUBMIT, START, end("failed"), artifacts=(str(there),))
    assert one(sweep).state == "done"  # somebody did it by hand


def test_what_stands_on_a_failure_is_not_run(sweep: Sweep) -> None:
    task(sweep, "a", SUBMIT, START, end("failed"))
    task(sweep, "b", SUBMIT, after=("a",))
    assert [s.state for s in statuses(sweep, {})] == ["failed", "not run"]


def test_a_process_of_this_machine_is_seen(sweep: Sweep) -> None:
    here = {"host": socket.gethostname(), "pid": os.getpid()}
    task(sweep, "a", {"event": "submit", **here}, {"event": "start", "job": None, **here})
    assert one(sweep).state == "running"


def test_failures_count_from_the_last_submission(sweep: Sweep) -> None:
    fail = [START, end("failed")]
    assert given_up(task(sweep, "a", SUBMIT, *fail, START, end("told"), *fail))
    assert not given_up(task(sweep, "b", SUBMIT, *fail, *fail, SUBMIT, *fail))
    assert not given_up(task(sweep, "c", SUBMIT, START, end("told"), START, end("stopped")))


def test_elapsed_adds_the_attempts_and_eta_is_the_logs_or_the_usual(sweep: Sweep) -> None:
    task(sweep, "a", SUBMIT, START, end("told"), START, end("done", 0))
    task(sweep, "b", SUBMIT, START)
    log = Path(task(sweep, "c", SUBMIT, START).log)
    log.write_text("train: step 1/9  loss 1  ETA 00:01:10\ntrain: step 2/9  loss 1  ETA 00:01:00\n")
    task(sweep, "d", SUBMIT)
    jobs = {
        str(i): Queued(str(i), state, "None", "", str(sweep.file(name)))
        for i, (name, state) in enumerate(
            zip("bcd", ("RUNNING", "RUNNING", "PENDING"), strict=True)
        )
    }
    a, b, c, d = statuses(sweep, jobs)
    killed = task(sweep, "e", SUBMIT, START)
    Path(killed.log).write_text("")
    (e,) = (s for s in statuses(sweep, jobs) if s.task.name == "e")
    assert e.state == "cancelled" and 90 < e.elapsed < 110  # until it last wrote
    assert a.elapsed == pytest.approx(2) and a.attempts == 2
    assert b.elapsed > 90 and b.eta == 0  # longer than the usual two seconds
    assert c.eta == 60
    assert d.eta is None
    assert remaining_seconds([a, b, c, d]) == pytest.approx((2 + 60 + 0) / 2)
    assert (format_seconds(None), format_seconds(61), format_seconds(90061)) == (
        "–",
        "00:01:01",
        "1-01:01:01",
    )


def test_a_failure_is_told_with_its_log_and_its_command(sweep: Sweep) -> None:
    made = task(sweep, "a", SUBMIT)
    Path(made.log).write_text("".join(f"line {i}\n" for i in range(100)))
    said = failure_text(made)
    assert "line 99" in said and "line 85" in said and "line 84" not in said
    assert "env PYTHONSAFEPATH=1 PYTHONPATH=/code true" in said


def test_an_unknown_sweep_is_refused_with_those_there_are(sweep: Sweep) -> None:
    assert open_sweep("demo-1-run-0", sweep.path.parent).path == sweep.path
    assert open_sweep(str(sweep.path), Path("nowhere")).id == sweep.id
    with pytest.raises(UserError, match="there are: demo-1-run-0"):
        open_sweep("mine", sweep.path.parent)


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff", "[" * 100_000])
@pytest.mark.parametrize("name", ["sweep.json", "jobs/train.json", "jobs/train.events.jsonl"])
def test_a_damaged_file_of_a_sweep_is_named(sweep: Sweep, name: str, text: str) -> None:
    task(sweep, "train", SUBMIT)
    lines = f"{text}\n{json.dumps(SUBMIT)}\n" if name.endswith("jsonl") else text
    (sweep.path / name).write_bytes(lines.encode("latin-1"))
    with pytest.raises(UserError, match=f"{name} cannot be read.*submit the sweep again"):
        sweep.record(), sweep.tasks()
