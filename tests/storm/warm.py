"""Runs of the command that begin with its libraries imported: forked from a process that has them.

    python -m tests.storm.warm    # reads one request a line, answers with one line

A run is the command from its first line on, as a shell starts it: a process and session of its
own, ``run.py`` as its main module, its own end. A rank of a training and the evaluation are forked
from it in the same way, with the environment, descriptors, session and parent that they would have
had; several ranks (torchrun) and workers of a feature pass import for themselves. What imports is
most of the time of a small run and the same each time: so kills fall into the work.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import resource
import runpy
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]
WORKERS = ("train.worker", "eval.worker")
LIBRARIES = (
    "run", "train.worker", "train.trainer", "train.lora", "train.data", "train.tensors_only",
    "accelerate", "peft", "transformers.trainer", "torch", "transformers",
    "transformers.models.llava.modeling_llava", "transformers.models.clip.modeling_clip",
    "transformers.models.llama.modeling_llama", "coincide.features.forward.rows",
    "coincide.features.engine.workers", "coincide.models.load", "coincide.report.build",
    "coincide.terminal.progress", "pyarrow.parquet", "matplotlib.figure",
)  # fmt: skip
HARNESS = (
    "eval.worker", "lmms_eval.evaluator", "lmms_eval.tasks", "eval.kept", "eval.order",
    "eval.judged", "eval.loading", "eval.scores", "eval.units", "eval.model",
)  # fmt: skip
"""Of the evaluation; apart, since lmms-eval changes how Pillow reads pictures."""


class Server:
    """The process that forks; ended with :meth:`close`. ``harness``: with lmms-eval imported."""

    def __init__(self, environment: Mapping[str, str], *, harness: bool) -> None:
        command = [sys.executable, "-m", "tests.storm.warm", *(["harness"] if harness else [])]
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=dict(environment), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdout is not None
        while "ready" not in self._process.stdout.readline():  # libraries may print, too
            pass

    def start(self, folder: Path, words: Sequence[str], limit: int | None) -> Run:
        """The command in ``folder``, its output in ``folder/said``; ``limit``: bytes of a file."""
        return Run(self, self.ask(folder=str(folder), words=list(words), limit=limit))

    def ask(self, **request: Any) -> Any:
        """What the server answers."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


class Run:
    """A run, to be asked and waited for like a ``subprocess.Popen``."""

    def __init__(self, server: Server, pid: int) -> None:
        self.pid, self._server, self._code = pid, server, None

    def poll(self) -> int | None:
        return self._look(os.WNOHANG)

    def wait(self) -> int:
        code = self._look(0)
        assert code is not None
        return code

    def _look(self, how: int) -> int | None:
        if self._code is None:
            self._code = self._server.ask(pid=self.pid, how=how)
        return self._code


def serve() -> None:
    """Answer requests until there are no more; in the child that is a run, never returns."""
    for name in (*LIBRARIES, *(HARNESS if "harness" in sys.argv else ())):
        import_module(name)
    gc.freeze()
    print(json.dumps("ready"), flush=True)
    while line := sys.stdin.readline():
        asked = json.loads(line)
        if "pid" in asked:
            pid, status = os.waitpid(asked["pid"], asked["how"])
            answer = os.waitstatus_to_exitcode(status) if pid else None
        elif (answer := os.fork()) == 0:
            run(Path(asked["folder"]), asked["words"], asked["limit"])
        print(json.dumps(answer), flush=True)


def run(folder: Path, words: Sequence[str], limit: int | None) -> NoReturn:
    """Become the command; ends as it does."""
    os.setsid()
    os.chdir(folder)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    said = os.open("said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(said, 1)
    os.dup2(said, 2)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    subprocess.Popen = Forked  # type: ignore[misc]
    program = str(ROOT / "run.py")
    sys.argv = [program, *words]
    _end_with(lambda: runpy.run_path(program, run_name="__main__"))


def _end_with(call: Callable[[], object]) -> NoReturn:
    """Call, and end as python does, without taking apart what was imported."""
    code: Any = 1
    try:
        call()
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


class Forked(subprocess.Popen):  # type: ignore[type-arg]
    """A process; a worker of ours is forked from this one, with its libraries imported."""

    def _execute_child(self, args: Any, *rest: Any) -> None:
        ours = isinstance(args, list) and args[:2] == [sys.executable, "-m"] and args[2] in WORKERS
        if not ours:
            return super()._execute_child(args, *rest)  # type: ignore[misc]
        _, prepare, _, _, folder, variables, *_ = rest
        pipes, session = rest[9:15], rest[20]
        self.pid = os.fork()
        if self.pid == 0:
            if session:
                os.setsid()
            prepare()
            become(args[2:], folder, variables, pipes[0], pipes[3], pipes[5])
        self._child_created = True
        return self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


def become(
    words: list[str], folder: Any, variables: Mapping[str, str], *streams: int
) -> NoReturn:  # fmt: skip
    """Be the module ``words[0]`` of a fresh python, with these standard streams."""
    for place, stream in enumerate(streams):
        if stream != -1:
            os.dup2(stream, place)
    os.closerange(3, 256)
    os.chdir(folder or ".")
    os.environ.clear()
    os.environ.update(variables)
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    sys.stdout, sys.stderr = (os.fdopen(place, "w", 1, closefd=False) for place in (1, 2))
    sys.argv = list(words)
    sys.modules.pop(words[0], None)
    atexit._clear()
    _end_with(lambda: runpy.run_module(words[0], run_name="__main__", alter_sys=True))


if __name__ == "__main__":
    serve()
