"""Forked programs are processes like fresh ones: streams, folder, variables, exit, kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coincide.system import forkserver
from coincide.system.forkserver import Forked, serving, start
from coincide.system.processes import preexec_die_with_parent

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import json, os, sys, threading
from coincide.system.forkserver import Forked, start
word = sys.argv[1]
if word == "tell":
    found = {
        "argv": sys.argv[1:], "folder": os.getcwd(), "parent": os.getppid(), "name": __name__,
        "variables": {k: v for k, v in os.environ.items() if k.startswith("MINE")},
        "session": os.getsid(0) == os.getpid(), "loaded": "fractions" in sys.modules,
        "open": sorted(os.listdir("/proc/self/fd"))[:4], "threads": threading.active_count(),
        "stdin": sys.stdin.read(),
    }
    print(json.dumps(found))
    print("said", file=sys.stderr)
elif word == "nest":
    child = start([sys.executable, __file__, "tell"], stdout=-1, text=True, stdin=-3)
    print(isinstance(child, Forked), json.loads(child.stdout.read())["parent"] == os.getpid())
    print(child.wait())
elif word == "sleep":
    import time
    print("begun", flush=True)
    time.sleep(60)
elif word == "wait":
    child = start([sys.executable, __file__, "sleep"], stdout=-1, text=True)
    print(child.pid, child.stdout.readline(), flush=True)
    child.wait()
else:
    sys.exit(int(word) if word.isdigit() else word)
"""


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder whose ``run.py`` is forked, with a server that has imported one module."""
    folder = tmp_path_factory.mktemp("code")
    (folder / "run.py").write_text(PROGRAM)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with serving(["fractions"], folder, env):
        yield folder


def run(code: Path, *words: str, **more: Any) -> Any:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "MINE": "1"}
    command = [sys.executable, str(code / "run.py"), *words]
    return start(command, env=env, preexec_fn=preexec_die_with_parent(), **more)


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes fork on Linux alone")


def test_a_forked_program_finds_what_a_fresh_one_does(code: Path, tmp_path: Path) -> None:
    more: dict[str, Any] = {"stdout": subprocess.PIPE, "text": True, "cwd": tmp_path}
    with (tmp_path / "log").open("wb") as log:
        more |= {"stderr": log, "stdin": subprocess.DEVNULL, "start_new_session": True}
        child = run(code, "tell", "a b", **more)
        told = json.loads(child.stdout.read())
    assert isinstance(child, Forked) and child.wait() == child.poll() == 0
    assert told.pop("open")[:3] == ["0", "1", "2"]
    assert told == {
        "argv": ["tell", "a b"], "folder": str(tmp_path), "parent": os.getpid(),
        "name": "__main__", "variables": {"MINE": "1"}, "session": True, "loaded": True,
        "threads": 1, "stdin": "",
    }  # fmt: skip
    assert (tmp_path / "log").read_text() == "said\n"


def test_exit_codes_texts_and_signals_are_those_of_a_process(code: Path, tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        both = {"stdout": log, "stderr": subprocess.STDOUT}
        assert run(code, "0", **both).wait() == 0
        assert run(code, "75", **both).wait() == 75
        assert run(code, "because", **both).wait() == 1
    assert (tmp_path / "log").read_text() == "because\n"
    slow = run(code, "sleep", stdout=subprocess.PIPE, text=True)
    assert slow.stdout.readline() == "begun\n" and slow.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        slow.wait(0.05)
    slow.terminate()
    assert slow.wait(10) == -signal.SIGTERM
    slow.kill()  # it has ended: nothing happens


def test_a_program_forks_its_own_children_and_takes_them_along(code: Path) -> None:
    nest = run(code, "nest", stdout=subprocess.PIPE, text=True)
    assert nest.stdout.read().split() == ["True", "True", "0"] and nest.wait() == 0
    waits = run(code, "wait", stdout=subprocess.PIPE, text=True)
    child = int(waits.stdout.readline().split()[0])
    waits.kill()
    assert waits.wait() == -signal.SIGKILL
    end = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and time.monotonic() < end:
        time.sleep(0.01)
    assert not Path(f"/proc/{child}").exists(), "the grandchild outlived its parent"


def test_what_cannot_be_forked_is_started_afresh(
    code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fresh(command: list[str], **more: Any) -> bool:
        child = start(command, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, **more)
        child.wait()
        return isinstance(child, subprocess.Popen)

    mine = [sys.executable, str(code / "run.py"), "tell"]
    assert not fresh(mine)
    assert fresh([sys.executable, "-c", "pass"]) and fresh(["true"])
    assert fresh(mine, env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"})
    monkeypatch.setattr(forkserver, "_channel", None)
    assert fresh(mine, env={**os.environ, "PYTHONPATH": str(ROOT)})


def test_a_server_that_is_gone_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text(PROGRAM)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    before = forkserver._channel
    forkserver._channel = None
    try:
        with serving(["no_such_module"], tmp_path, env):
            child = run(tmp_path, "5")
            assert child.wait() == 5 and isinstance(child, subprocess.Popen)
        with serving([], tmp_path, env):
            assert forkserver._channel is None
    finally:
        forkserver._channel = before
