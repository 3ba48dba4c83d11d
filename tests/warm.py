"""Processes of ours that begin with their libraries imported: forked from one that has them.

:class:`Popen` stands in for ``subprocess.Popen``. What it starts is a process as ever: a child of
the caller with its own session, environment, descriptors, main module and exit code, which the
caller signals, follows and waits for, and which is killed when the caller ends. Importing torch,
transformers and lmms-eval is most of the time of a small run and the same each time. Whatever is
not a Python program of this project or torchrun is started as always, and so is everything on a
machine with GPUs, which a forked process cannot use. Two things differ from a fresh process: the
seed of ``hash`` is the server's, and ``/proc/<pid>/cmdline`` shows the server's command line.
"""

from __future__ import annotations

import atexit
import inspect
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

from coincide.system import forkserver
from coincide.system.forkserver import Program, ask, become, forget, read_once

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = (ROOT / "run.py", ROOT / "tests" / "train" / "small_memory.py")
MODULES = ("train.", "eval.", "bench.", "tests.", "coincide.dashboard", "torch.distributed.run")
CODES = ("from coincide.features.engine.workers import child; child()",)
"""What is forked: scripts, ``-m`` modules whose names begin so, and ``-c`` codes."""
LIBRARIES = (
    "run", "train.worker", "train.trainer", "train.lora", "train.data", "train.tensors_only",
    "train.node", "accelerate", "peft", "torch", "torch.distributed.run", "transformers.trainer",
    "transformers", "transformers.models.llava.modeling_llava", "deepspeed",
    "transformers.models.clip.modeling_clip", "transformers.models.llama.modeling_llama",
    "coincide.features.forward.rows", "coincide.features.engine.workers", "coincide.models.load",
    "coincide.report.build", "coincide.terminal.progress", "pyarrow.parquet", "matplotlib.figure",
    "lmms_eval.evaluator", "lmms_eval.tasks", "eval.worker", "eval.kept", "eval.order",
    "eval.judged", "eval.loading", "eval.scores", "eval.units", "eval.model",
)  # fmt: skip
AT_IMPORT = ("PYTHON", "LD_", "LC_", "LANG")
"""Variables that a process reads as it begins: others than the server's need a fresh one."""
PIPES = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")

PYTHON = sys.executable
Plain = subprocess.Popen
_signature = inspect.signature(Plain._execute_child)  # type: ignore[attr-defined]
_beginning = dict(os.environ)
_here = False
"""Whether this process has the libraries and forks itself: the server and what came from it."""


class Popen(subprocess.Popen):  # type: ignore[type-arg]
    """``subprocess.Popen``, which forks a Python program of ours."""

    def _execute_child(self, *given: Any) -> None:
        call = _signature.bind(self, *given).arguments
        pid = None
        if program := _program(call):
            asked = (call["p2cread"], call["c2pwrite"], call["errwrite"])
            streams = [own if number == -1 else number for own, number in enumerate(asked)]
            pid = _fork(program, [*streams, *program.passed])
        if pid is None:
            return super()._execute_child(*given)  # type: ignore[misc]
        self.pid, self._child_created = pid, True
        return self._close_pipe_fds(*(call[name] for name in PIPES))  # type: ignore[attr-defined]


@contextmanager
def imported(popen: Any = Popen) -> Iterator[None]:
    """``subprocess.Popen`` is :class:`Popen` here, or, given ``Plain``, what it always was."""
    before, subprocess.Popen = subprocess.Popen, popen  # type: ignore[misc]
    try:
        yield
    finally:
        subprocess.Popen = before  # type: ignore[misc]


# --- the caller -------------------------------------------------------------------------------


def _program(call: Mapping[str, Any]) -> Program | None:
    """What is to be forked; None if the call is not for a program of ours."""
    args, variables = call["args"], dict(call["env"] or os.environ)
    words = [os.fspath(word) for word in args] if isinstance(args, list | tuple) else []
    unbuffered = words[1:2] == ["-u"]
    program, words = words[:1], words[1 + unbuffered :]
    if program != [PYTHON] or not _ours(words) or Path("/dev/nvidiactl").exists():
        return None
    if sys.platform != "linux" or _at_import(variables) != _at_import(_beginning):
        return None
    return Program(
        os.getpid(), words, os.fspath(call["cwd"] or Path.cwd()), variables,
        bool(call["start_new_session"]), partial(_prepared, call["preexec_fn"]), unbuffered,
        tuple(call["pass_fds"]),
    )  # fmt: skip


def _ours(words: Sequence[str]) -> bool:
    match words:
        case ["-m", name, *_]:
            return f"{name}.".startswith(MODULES)
        case ["-c", code, *_]:
            return code in CODES
        case [program, *_]:
            return Path(program) in SCRIPTS
    return False


def _at_import(variables: Mapping[str, str]) -> dict[str, str]:
    return read_once(variables, AT_IMPORT)


def _prepared(prepare: Callable[[], None] | None) -> None:
    forget("eval.worker")  # which reads its rank from the environment when it is imported
    if prepare:
        prepare()


def _fork(program: Program, descriptors: list[int]) -> int | None:
    """The new child of this process; None if there can be none."""
    if not _here:
        return ask(_server(), program, descriptors)
    if pid := os.fork():
        return pid
    return become(program, descriptors)


@cache
def _server() -> socket.socket:
    """The channel to the process that has imported the libraries, which ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = Plain(
        [PYTHON, "-m", "tests.warm", str(theirs.fileno())], cwd=ROOT,
        env={**_beginning, "PYTHONPATH": str(ROOT)}, pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    theirs.close()

    def close() -> None:
        ours.close()
        process.wait()

    atexit.register(close)
    return ours


# --- the server -------------------------------------------------------------------------------


def serve(channel: socket.socket) -> None:
    """Import the libraries, and fork what is asked for until the caller closes its end."""
    global _here
    _here = True
    subprocess.Popen = Popen  # type: ignore[misc]
    for name in LIBRARIES:
        import_module(name)
    pictures = import_module("PIL.ImageFile")
    pictures.LOAD_TRUNCATED_IMAGES = False  # type: ignore[attr-defined]  # lmms-eval sets it
    _name_methods_fast()
    forkserver.serve(channel)


def _name_methods_fast() -> None:
    """torchrun names the method of each record by ``inspect.stack()``, which looks through every
    imported module: half a second with ours, a dozen times a meeting, which then comes too late.
    """
    from torch.distributed.elastic.rendezvous import dynamic_rendezvous

    def name(depth: int = 2) -> str:
        return sys._getframe(depth).f_code.co_name

    dynamic_rendezvous.get_method_name = name


if __name__ == "__main__":
    from tests import warm

    warm.serve(socket.socket(fileno=int(sys.argv[1])))
