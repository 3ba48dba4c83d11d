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
import ctypes
import fcntl
import gc
import inspect
import json
import os
import pickle
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, NoReturn

from coincide.system.processes import die_with_parent

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
SET_LATER = ("PYTHONPATH", "PYTHONUNBUFFERED")
SUBREAPER = 36
"""prctl: orphaned descendants become children of this process."""
PATIENCE = 30.0
PIPES = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")

PYTHON = sys.executable
Plain = subprocess.Popen
_signature = inspect.signature(Plain._execute_child)  # type: ignore[attr-defined]
_beginning = dict(os.environ)
_here = False
"""Whether this process has the libraries and forks itself: the server and what came from it."""


@dataclass(frozen=True)
class Start:
    """What a Python process gets as it begins."""

    parent: int
    words: list[str]
    """``-m NAME``, ``-c CODE`` or a script, and arguments."""
    unbuffered: bool
    folder: str | None
    variables: dict[str, str]
    passed: tuple[int, ...]
    """Descriptors beside 0, 1 and 2, to be kept under their numbers."""
    session: bool
    prepare: Callable[[], None] | None


class Popen(subprocess.Popen):  # type: ignore[type-arg]
    """``subprocess.Popen``, which forks a Python program of ours."""

    def _execute_child(self, *given: Any) -> None:
        call = _signature.bind(self, *given).arguments
        pid = None
        if start := _start(call):
            asked = (call["p2cread"], call["c2pwrite"], call["errwrite"])
            streams = [own if number == -1 else number for own, number in enumerate(asked)]
            pid = _fork(start, [*streams, *start.passed])
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


def _start(call: Mapping[str, Any]) -> Start | None:
    """What is to be forked; None if the call is not for a program of ours."""
    args, variables = call["args"], dict(call["env"] or os.environ)
    words = [os.fspath(word) for word in args] if isinstance(args, list | tuple) else []
    unbuffered = words[1:2] == ["-u"]
    program, words = words[:1], words[1 + unbuffered :]
    if program != [PYTHON] or not _ours(words) or Path("/dev/nvidiactl").exists():
        return None
    if sys.platform != "linux" or _at_import(variables) != _at_import(_beginning):
        return None
    folder = None if call["cwd"] is None else os.fspath(call["cwd"])
    return Start(
        os.getpid(), words, unbuffered, folder, variables, tuple(call["pass_fds"]),
        bool(call["start_new_session"]), call["preexec_fn"],
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
    return {
        name: value for name, value in variables.items()
        if name.startswith(AT_IMPORT) and not name.startswith(SET_LATER)
    }  # fmt: skip


def _fork(start: Start, descriptors: list[int]) -> int | None:
    """The new child of this process; None if there can be none."""
    if not _here:
        return _server().fork(start, descriptors)
    if pid := os.fork():
        return pid
    return become(start, descriptors)


class Server:
    """The process that has imported the libraries, and forks; it ends with this one."""

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        self._process = Plain(
            [sys.executable, "-m", "tests.warm", str(theirs.fileno())], cwd=ROOT,
            env={**_beginning, "PYTHONPATH": str(ROOT)}, pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        theirs.close()

    def fork(self, start: Start, descriptors: list[int]) -> int | None:
        """A grandchild of the server, whose parent ends at once so that it becomes ours."""
        with self._lock, suppress(OSError, pickle.PicklingError, AttributeError, TypeError):
            message = pickle.dumps(start)
            _prctl(SUBREAPER, 1)
            try:
                socket.send_fds(self._channel, [message], descriptors)
                return int(self._channel.recv(64) or 0) or None
            finally:
                _prctl(SUBREAPER, 0)
        return None

    def close(self) -> None:
        self._channel.close()
        self._process.wait()


@cache
def _server() -> Server:
    server = Server()
    atexit.register(server.close)
    return server


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


# --- the server -------------------------------------------------------------------------------


def serve(channel: socket.socket) -> None:
    """Fork what is asked for until the caller closes its end; in the child, never returns."""
    global _here
    _here = True
    subprocess.Popen = Popen  # type: ignore[misc]
    for name in LIBRARIES:
        import_module(name)
    _read_pictures(truncated=False)
    _name_methods_fast()
    gc.freeze()
    while True:
        message, descriptors, *_ = socket.recv_fds(channel, 1 << 20, 64)
        if not message:
            return
        if (between := os.fork()) == 0:
            if os.fork():
                os._exit(0)
            _adopted(pickle.loads(message), descriptors, channel)
        os.waitpid(between, 0)
        for descriptor in descriptors:
            os.close(descriptor)


def _name_methods_fast() -> None:
    """torchrun names the method of each record by ``inspect.stack()``, which looks through every
    imported module: half a second with ours, a dozen times a meeting, which then comes too late.
    """
    from torch.distributed.elastic.rendezvous import dynamic_rendezvous

    def name(depth: int = 2) -> str:
        return sys._getframe(depth).f_code.co_name

    dynamic_rendezvous.get_method_name = name


def _adopted(start: Start, descriptors: list[int], channel: socket.socket) -> NoReturn:
    """Become the program once the caller is this process's parent."""
    end = time.monotonic() + PATIENCE
    while os.getppid() != start.parent and time.monotonic() < end:
        time.sleep(0.001)
    die_with_parent()
    if os.getppid() != start.parent:
        channel.send(b"0")
        os._exit(1)
    channel.send(str(os.getpid()).encode())
    become(start, descriptors)


# --- the child --------------------------------------------------------------------------------


def become(start: Start, descriptors: Sequence[int]) -> NoReturn:
    """Be a fresh Python that runs the program; ends as it does."""
    code: Any = 1
    try:
        if start.session:
            os.setsid()
        _descriptors(descriptors, (0, 1, 2, *start.passed))
        _streams(start.unbuffered or bool(start.variables.get("PYTHONUNBUFFERED")))
        _state(start)
        _run(start.words)
        code = 0
    except SystemExit as end:
        code = end.code
        if code is not None and not isinstance(code, int):
            print(code, file=sys.stderr)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
    with suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def _descriptors(given: Sequence[int], wanted: Sequence[int]) -> None:
    """``given`` under the numbers ``wanted``; all others are closed."""
    above = max((*given, *wanted)) + 1
    kept = [fcntl.fcntl(number, fcntl.F_DUPFD, above) for number in given]
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - numbers, not paths
        if int(name) not in kept:
            with suppress(OSError):
                os.close(int(name))
    for number, target in zip(kept, wanted, strict=True):
        os.dup2(number, target)
        os.close(number)


def _streams(unbuffered: bool) -> None:
    codec = {"encoding": sys.stdout.encoding, "closefd": False}
    sys.stdin = open(0, errors=sys.stdin.errors, **codec)  # noqa: SIM115
    sys.stdout = open(1, "w", 1 if unbuffered else -1, errors=sys.stdout.errors, **codec)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, errors="backslashreplace", **codec)  # noqa: SIM115
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr


def _state(start: Start) -> None:
    """Folder, variables, search path, signals and what libraries read when they are imported."""
    os.chdir(start.folder or ".")
    os.environ.clear()
    os.environ.update(start.variables)
    script = start.words[0]
    first = {"-m": str(Path.cwd()), "-c": ""}.get(script, str(Path(script).parent))
    paths = start.variables.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [first, *filter(None, paths), *_PLAIN_PATH]
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    atexit._clear()
    tracker = resource_tracker._resource_tracker  # type: ignore[attr-defined]
    tracker._fd = tracker._pid = None
    import numpy as np
    import torch

    np.random.seed()  # noqa: NPY002 - the global one, as a process finds it
    if (threads := os.environ.get("OMP_NUM_THREADS", "")).isdigit():
        torch.set_num_threads(int(threads))
    if Path(start.words[-1]).name == "request.json":
        _harness(Path(start.words[-1]))
    _forget("eval.worker")  # which reads its rank from the environment when it is imported
    if start.prepare:
        start.prepare()


def _forget(module: str) -> None:
    if module in sys.modules:
        package, _, name = module.rpartition(".")
        delattr(sys.modules[package], name)
        del sys.modules[module]


def _harness(request: Path) -> None:
    """lmms-eval as a worker has it: no network, caches of the request's own, pictures cut short."""
    import datasets.config
    import huggingface_hub.constants
    from lmms_eval.api.task import _resolve_hf_datasets_cache_dir as remembered

    cache = Path(json.loads(request.read_text())["cache"])
    huggingface_hub.constants.HF_HUB_OFFLINE = True
    datasets.config.HF_HUB_OFFLINE = datasets.config.HF_DATASETS_OFFLINE = True
    datasets.config.HF_CACHE_HOME = str(cache / "huggingface")
    datasets.config.HF_DATASETS_CACHE = cache / "datasets"
    datasets.config.HF_MODULES_CACHE = cache / "huggingface" / "modules"
    datasets.config.DOWNLOADED_DATASETS_PATH = cache / "datasets" / "downloads"
    datasets.config.EXTRACTED_DATASETS_PATH = cache / "datasets" / "downloads" / "extracted"
    remembered.cache_clear()
    _read_pictures(truncated=True)


def _read_pictures(*, truncated: bool) -> None:
    """lmms-eval changes how Pillow reads pictures, for the process that imports it."""
    from PIL import ImageFile

    ImageFile.LOAD_TRUNCATED_IMAGES = truncated


def _run(words: list[str]) -> None:
    match words:
        case ["-m", name, *arguments]:
            sys.argv = [name, *arguments]
            _forget(name)
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        case ["-c", code, *arguments]:
            sys.argv = ["-c", *arguments]
            exec(code, vars(sys.modules["__main__"]))
        case [program, *_]:
            sys.argv = list(words)
            runpy.run_path(program, run_name="__main__")


_PLAIN_PATH = [path for path in sys.path if path not in ("", str(ROOT))]

if __name__ == "__main__":
    from tests import warm

    warm.serve(socket.socket(fileno=int(sys.argv[1])))
