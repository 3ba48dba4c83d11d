"""The promises about jobs, each on a real SLURM with programs that take no time."""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coincide.schema import UserError
from launch import cluster
from launch.status import failure_text, show
from tests.slurm.conftest import SITE, Cheap, on, wait_for

OK = "print('fine')"
BAD = "print('the reason'); raise SystemExit(3)"
PATIENT = """
import pathlib, signal, sys, time
mark = pathlib.Path("{name}.checkpoint")
if mark.exists():
    sys.exit(print("resumed"))
def stop(number, frame):
    mark.touch()
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
signal.signal(signal.SIGUSR2, stop)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
time.sleep(600)
"""
"""Works until it is told to stop, writes a checkpoint, and finishes when it finds one."""


def span(events: list[dict[str, Any]]) -> tuple[float, float]:
    started = [e["time"] for e in events if e["event"] == "start"]
    return started[0], [e["time"] for e in events if e["event"] == "end"][-1]


@pytest.fixture(scope="module", autouse=True)
def slow(tmp_path_factory: pytest.TempPathFactory) -> Cheap:
    """What takes SLURM half a minute of waiting, on its way while the other tests run."""
    cheap = Cheap(tmp_path_factory.mktemp("slow"))
    site = on(replace(SITE, warning_s=55), time="00:01:00")
    cheap.submit({"long": (PATIENT.format(name="long"), ())}, site)
    count = "n = len(p.read_text()) if p.exists() else 0; p.write_text('x' * (n + 1)); "
    third = f"import pathlib; p = pathlib.Path('third'); {count}raise SystemExit(n < 2)"
    make = {"third": (third, ()), "never": ("raise SystemExit(1)", ()), "after": (OK, ("third",))}
    cheap.submit(make, replace(SITE, failures=3))
    return cheap


def test_a_job_of_a_higher_partition_takes_the_node_and_gives_it_back(cheap: Cheap) -> None:
    site = on(SITE, "--nodelist=n2", cpus=16)
    cheap.submit({"lower": (PATIENT.format(name="lower"), ())}, site)
    wait_for(lambda: "ready" in cheap.log("lower"))
    urgent = subprocess.run(
        ["sbatch", "--parsable", "--partition=urgent", "--nodelist=n2", "--cpus-per-task=16",
         "--mem=10", "--output=/dev/null", "--wrap=sleep 1"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    found = cheap.ended()["lower"]
    assert (found.state, found.attempts) == ("done", 2)
    assert cluster.queue()[urgent].state == "COMPLETED"
    assert cheap.log("lower").splitlines()[-1] == "resumed"


def test_failures_stop_what_stands_on_them_and_nothing_else(
    cheap: Cheap, capsys: pytest.CaptureFixture[str]
) -> None:
    cheap.submit(
        {
            "first": (OK, ()),
            "second": (OK, ("first",)),
            "broken": (BAD, ("first",)),
            "beyond": (OK, ("broken", "second")),
            "farther": (OK, ("beyond",)),
        }
    )
    found = cheap.ended()
    assert {name: status.state for name, status in found.items()} == {
        "first": "done", "second": "done", "broken": "failed",
        "beyond": "not run", "farther": "not run",
    }  # fmt: skip
    assert span(cheap.events("first"))[1] <= span(cheap.events("second"))[0]
    assert found["broken"].why == "exit code 3, 1 of 1 attempts"
    assert found["beyond"].why == "stands on broken"
    capsys.readouterr()
    assert show(cheap.sweep) == 1
    said = capsys.readouterr().out
    assert "2 done, 1 failed, 2 not run" in said
    assert "the reason" in said and failure_text(found["broken"].task) in said
    assert "To submit all that is missing: python again" in said


def test_cancelled_jobs_are_told_apart(cheap: Cheap) -> None:
    sleep = "import time; print('ready', flush=True); time.sleep(600)"
    cheap.submit({"a": (sleep, ()), "b": (sleep, ()), "c": (OK, ("a",)), "d": (OK, ())})
    wait_for(lambda: "ready" in cheap.log("a") and "ready" in cheap.log("b"))
    subprocess.run(["scancel", cheap.job("a")], check=True)
    pids = [e["pid"] for name in "ab" for e in cheap.events(name) if e["event"] == "start"]
    os.kill(next(e["supervisor"] for e in cheap.events("b") if "supervisor" in e), signal.SIGKILL)
    found = cheap.ended()
    assert (found["a"].state, found["a"].why) == ("cancelled", "stopped by SIGTERM")
    assert (found["b"].state, found["b"].why) == ("cancelled", "killed without a word")
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))  # no orphans
    assert found["c"].state == "not run"
    assert found["d"].state == "done"


def test_no_more_run_at_once_than_was_said(cheap: Cheap) -> None:
    nap = "import time; time.sleep(0.3)"
    make = {f"j{i}": (nap if i != 2 else BAD, ()) for i in range(6)}
    cheap.submit(make, replace(SITE, at_most=2))
    found = cheap.ended()
    assert sorted(s.state for s in found.values()) == ["done"] * 5 + ["failed"]
    spans = [span(cheap.events(name)) for name in make]
    for start, _ in spans:
        assert sum(s <= start < e for s, e in spans) <= 2


def test_each_gpu_is_one_jobs_and_jobs_without_need_get_none(cheap: Cheap) -> None:
    """Four pretend GPUs, two a node: of three trainings on two each, two run at a time."""
    said = "import os, time; print('gpus', os.environ.get('CUDA_VISIBLE_DEVICES')); time.sleep(0.5)"
    kinds = {name: name for name in ("data", "model", "subset", "scores")}
    trainings = ("one", "two", "three")
    site = on(SITE, gpus=2)
    cheap.submit(dict.fromkeys((*trainings, *kinds), (said, ())), site, kinds=kinds)
    assert {status.state for status in cheap.ended().values()} == {"done"}
    assert [cheap.log(name).strip() for name in trainings] == ["gpus 0,1"] * 3
    assert [cheap.log(name).strip() for name in kinds] == ["gpus None"] * 4
    spans = sorted(span(cheap.events(name)) for name in trainings)
    assert spans[2][0] >= min(end for _, end in spans[:2])
    with pytest.raises(UserError, match=r"(?s)sbatch refused: .*not available"):
        cheap.submit({"four": (said, ())}, on(SITE, gpus=3))


def test_what_slurm_refuses_is_said(cheap: Cheap) -> None:
    site = on(SITE, partition="nowhere")
    with pytest.raises(UserError, match=r"sbatch refused: .*partition") as error:
        cheap.submit({"a": (OK, ())}, site)
    assert "0 of 1 jobs are submitted" in str(error.value)


def test_the_time_limit_makes_a_job_go_back_and_on(slow: Cheap) -> None:
    found = slow.ended("long")["long"]
    assert (found.state, found.attempts) == ("done", 2)
    noted = [e.get("how") or e.get("signal") or e["event"] for e in slow.events("long")]
    assert noted == ["submit", "start", "SIGUSR2", "told", "requeue", "start", "done"]


def test_a_failure_is_tried_again_as_often_as_was_said(slow: Cheap) -> None:
    found = slow.ended()
    assert (found["third"].state, found["third"].attempts) == ("done", 3)
    assert (found["never"].state, found["never"].attempts) == ("failed", 3)
    assert found["after"].state == "done"  # it waited for the third attempt
