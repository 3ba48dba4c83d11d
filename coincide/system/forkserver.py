"""Python programs of this project, forked from a process that has imported the libraries already.

Importing torch, transformers and lmms-eval is a third of a small run, and the same each time. Where
:func:`serving` is in force, :func:`start` forks instead of starting afresh: a child of the caller
as ever, with its own session, environment, descriptors, main module and exit code, which the caller
signals, waits for and which ends with it. The process that forks does nothing else: it holds no
threads, no model and no data, and every script that it becomes keeps such a process for its own
children, forked before the script began. Two things differ from a fresh process: the seed of
``hash`` is the server's, and so is the command line in ``/proc``.

Linux alone, and never where a GPU could be used: a context of CUDA does not survive a fork. There,
and for any other program, :func:`start` is ``subprocess.Popen``.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import os
import pickle
import random
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
from importlib import import_module
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, NoReturn

from coincide.system.forked import Forked
from coincide.system.processes import become_subreaper, die_with_parent

PROJECT = Path(__file__).resolve().parents[2]
SCRIPT = PROJECT / "run.py"
PACKAGES = ("coincide.", "eval.", "train.")
"""What is forked: ``run.py``, and modules of these packages."""
AT_IMPORT = ("PYTHON", "LD_", "LC_", "LANG", "CUDA_", "HF_", "TRANSFORMERS_", "MKL_", "OPENBLAS_")
"""Variables that libraries read once: a program that is given others starts afresh."""
SET_LATER = ("PYTHONPATH", "PYTHONUNBUFFERED", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
PATIENCE = 30.0

_SERVER = (sys.executable, "-m", "coincide.system.forkserver")

forked = False
"""Whether this process was forked with the libraries, and did not import them itself."""
_channel: socket.socket | None = None
"""To the process that forks for this one; None: there is none."""
_lock = threading.Lock()
_inherited: Mapping[str, str] = dict(os.environ)


Process = subprocess.Popen[Any] | Forked


@dataclass(frozen=True)
class Program:
    """What a Python process gets as it begins."""

    parent: int
    words: list[str]
    """``-m NAME``, ``-c CODE`` or a script, and arguments."""
    folder: str
    variables: dict[str, str]
    session: bool
    prepare: Callable[[], None] | None
    unbuffered: bool = False
    passed: tuple[int, ...] = ()
    """Descriptors beside 0, 1 and 2, to be kept under their numbers."""
    serves: bool = False
    """Whether it gets a process that forks its own children."""


# --- the caller -------------------------------------------------------------------------------


def start(args: Sequence[str], *, stdin: Any = None, **more: Any) -> Process:
    """``subprocess.Popen(args, ...)``, forked where that can be.

    Of its options those that this project uses: ``stdin``, ``stdout`` and ``stderr`` (a file or one
    of subprocess' constants), ``text``, ``cwd``, ``env``, ``start_new_session``, ``preexec_fn``.
    """
    program = _program(args, more)
    if program is not None and (child := _forked(program, stdin, more)) is not None:
        return child
    return subprocess.Popen(args, stdin=stdin, **more)


def _program(args: Sequence[str], more: Mapping[str, Any]) -> Program | None:
    """What is to be forked; None where a fresh process is needed."""
    variables = dict(more.get("env") or os.environ)
    if _channel is None or args[0] != sys.executable or not _ours(args[1:]):
        return None
    if read_once(variables) != read_once(_inherited):
        return None
    return Program(
        os.getpid(), list(args[1:]), os.fspath(more.get("cwd") or Path.cwd()), variables,
        bool(more.get("start_new_session")), more.get("preexec_fn"), serves=args[1] != "-m",
    )  # fmt: skip


def _ours(words: Sequence[str]) -> bool:
    if words[:1] == ["-m"]:
        return words[1].startswith(PACKAGES)
    return bool(words) and Path(words[0]) == SCRIPT


def read_once(variables: Mapping[str, str], names: Sequence[str] = AT_IMPORT) -> dict[str, str]:
    """Those of the variables that Python or a library reads once, as it begins."""
    return {
        name: value
        for name, value in variables.items()
        if name.startswith(tuple(names)) and name not in SET_LATER
    }


def _forked(program: Program, stdin: Any, more: Mapping[str, Any]) -> Forked | None:
    """The child of this process; None if it could not be made."""
    ours: list[int] = []
    with Path(os.devnull).open("r+b") as nothing:

        def descriptor(wanted: Any, own: int) -> int:
            if wanted is None:
                return own
            if wanted == subprocess.DEVNULL:
                return nothing.fileno()
            if wanted == subprocess.PIPE:
                ours[:] = os.pipe()
                return ours[1]
            return wanted if isinstance(wanted, int) else int(wanted.fileno())

        out = descriptor(more.get("stdout"), 1)
        err = more.get("stderr")
        streams = [
            descriptor(stdin, 0), out, out if err == subprocess.STDOUT else descriptor(err, 2),
        ]  # fmt: skip
        pid = None if _channel is None else ask(_channel, program, streams)
    if ours:
        os.close(ours[1])
    if pid is None:
        for number in ours[:1]:
            os.close(number)
        return None
    return Forked(pid, os.fdopen(ours[0], "r" if more.get("text") else "rb") if ours else None)


def ask(channel: socket.socket, program: Program, descriptors: Sequence[int]) -> int | None:
    """The process that runs ``program``, a child of this one, with ``descriptors`` as 0, 1, 2 and
    those that are ``passed``; None if the server is gone.
    """
    with _lock, suppress(OSError, pickle.PicklingError, AttributeError, TypeError, ValueError):
        message = pickle.dumps(program)
        become_subreaper(True)  # the server's orphan becomes ours
        try:
            socket.send_fds(channel, [message], descriptors)
            return int(channel.recv(64) or 0) or None
        finally:
            become_subreaper(False)
    return None


@contextmanager
def serving(modules: Sequence[str], code: Path, env: Mapping[str, str]) -> Iterator[None]:
    """In this context :func:`start` forks programs from a process that has imported ``modules`` of
    the project's copy in ``code``, with the environment ``env``.

    Does nothing where processes cannot be forked (see the module), or with no ``modules``.
    """
    global _channel, _inherited, SCRIPT
    if not modules or sys.platform != "linux" or Path("/dev/nvidiactl").exists() or _channel:
        yield
        return
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen(
        [*_SERVER, str(theirs.fileno()), str(code / "run.py"), *modules],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        env=dict(env),
        cwd=code,
    )
    theirs.close()
    before = SCRIPT
    _channel, _inherited, SCRIPT = ours, dict(env), code / "run.py"
    try:
        yield
    finally:
        _channel, SCRIPT = None, before
        ours.close()
        process.wait()


# --- the server -------------------------------------------------------------------------------


def serve(channel: socket.socket) -> None:
    """Fork what is asked for until the caller closes its end; in the child, never returns."""
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


def _adopted(program: Program, descriptors: list[int], channel: socket.socket) -> NoReturn:
    """Become the program once the caller is this process's parent."""
    end = time.monotonic() + PATIENCE
    while os.getppid() != program.parent and time.monotonic() < end:
        time.sleep(0.001)
    die_with_parent()
    if os.getppid() != program.parent:
        channel.send(b"0")
        os._exit(1)
    channel.send(str(os.getpid()).encode())
    become(program, descriptors)


# --- the child --------------------------------------------------------------------------------


def become(program: Program, descriptors: Sequence[int]) -> NoReturn:
    """Be a fresh Python that runs the program; ends as it does."""
    code: Any = 1
    try:
        if program.session:
            os.setsid()
        _only(descriptors, (0, 1, 2, *program.passed))
        _streams(program.unbuffered or bool(program.variables.get("PYTHONUNBUFFERED")))
        _state(program)
        _run(program.words)
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


def _only(given: Sequence[int], wanted: Sequence[int]) -> None:
    """``given`` as the descriptors ``wanted``; all others are closed."""
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
    codec: dict[str, Any] = {"encoding": sys.stdout.encoding, "closefd": False}
    sys.stdin = open(0, errors=sys.stdin.errors, **codec)  # noqa: SIM115
    sys.stdout = open(1, "w", 1 if unbuffered else -1, errors=sys.stdout.errors, **codec)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, errors="backslashreplace", **codec)  # noqa: SIM115
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]


def _state(program: Program) -> None:
    """Folder, variables, search path, signals, generators, and a server of a script's own."""
    global _channel, _inherited, forked
    forked = True
    os.chdir(program.folder)
    _channel = _own_server() if program.serves else None
    _inherited = program.variables
    os.environ.clear()
    os.environ.update(program.variables)
    sys.path[:] = [_first(program.words[0]), *_python_path(program.variables), *_INSTALLED]
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    atexit._clear()
    tracker: Any = resource_tracker._resource_tracker  # type: ignore[attr-defined]
    tracker._fd = tracker._pid = None
    random.seed()
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()
    threads = program.variables.get("OMP_NUM_THREADS", "")
    if threads.isdigit() and (torch := sys.modules.get("torch")):
        torch.set_num_threads(int(threads))
    if program.prepare:
        program.prepare()


def _first(program: str) -> str:
    """Where Python looks for modules first."""
    return {"-m": str(Path.cwd()), "-c": ""}.get(program, str(Path(program).parent))


def _python_path(variables: Mapping[str, str]) -> list[str]:
    return [*filter(None, variables.get("PYTHONPATH", "").split(os.pathsep))]


_INSTALLED = [
    path for path in sys.path if path not in ("", str(PROJECT), *_python_path(os.environ))
]
"""The search path's end, which every program has."""


def _own_server() -> socket.socket:
    """The channel to a process like the one that this was forked from, which ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork():
        theirs.close()
        return ours
    ours.close()
    die_with_parent()
    serve(theirs)
    os._exit(0)


def _run(words: list[str]) -> None:
    match words:
        case ["-m", name, *arguments]:
            sys.argv = [name, *arguments]
            forget(name)
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        case ["-c", code, *arguments]:
            sys.argv = ["-c", *arguments]
            exec(code, vars(sys.modules["__main__"]))
        case [program, *_]:
            sys.argv = list(words)
            runpy.run_path(program, run_name="__main__")


def forget(module: str) -> None:
    """Have ``module`` imported again, by a program that is named so."""
    if module in sys.modules:
        package, _, name = module.rpartition(".")
        delattr(sys.modules[package], name)
        del sys.modules[module]


def main(channel: int, script: Path, modules: Sequence[str]) -> None:
    """The server's own program; ``script`` is forked beside the packages' modules."""
    global SCRIPT
    SCRIPT = script
    die_with_parent()
    for name in modules:
        import_module(name)
    if pictures := sys.modules.get("PIL.ImageFile"):
        pictures.LOAD_TRUNCATED_IMAGES = False  # type: ignore[attr-defined]  # lmms-eval sets it
    serve(socket.socket(fileno=channel))


if __name__ == "__main__":
    from coincide.system import forkserver  # the module that forked programs import, not __main__

    forkserver.main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
