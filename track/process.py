"""Run wandb in a separate process with a deadline, since it may hang or crash.

The process reads its order as JSON from stdin and answers with lines of JSON on stdout.
"""

from __future__ import annotations

import json
import math
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from coincide.terminal.redact import is_secret_variable, redact
from track.settings import Logger

ROOT = Path(__file__).resolve().parent.parent
_OWN = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_CREDENTIALS_FILE")
"""wandb's own credentials, passed to its process only if it is to reach the server."""
_KEPT = ("WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_CONFIG_DIR", "WANDB_HTTP_TIMEOUT", *_OWN)


@dataclass(frozen=True)
class Child:
    """The process, and the file with its error output."""

    process: subprocess.Popen[bytes]
    errors: Path
    unread: bytearray = field(default_factory=bytearray)
    """Output after the last answer that was read."""


@contextmanager
def running(module: str, order: dict[str, Any], logger: Logger, seconds: float) -> Iterator[Child]:
    """Run ``python -m module`` with ``order``; the process and its children end with the context.

    It also exits by itself after ``seconds``, in case this process is killed.
    """
    root = root_of(logger)
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="track-", ignore_cleanup_errors=True) as folder:
        errors, told = Path(folder) / "errors", Path(folder) / "order.json"
        order = {**order, "seconds": seconds}
        told.write_text(json.dumps(order, allow_nan=False), encoding="utf-8")
        with told.open("rb") as stdin, errors.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", module], cwd=root, env=_environment(logger), stdin=stdin,
                stdout=subprocess.PIPE, stderr=stderr, start_new_session=True,
            )  # fmt: skip
        try:
            yield Child(process, errors)
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def answer(child: Child, seconds: float) -> dict[str, Any] | None:
    """The next answer; None if the process ended or ``seconds`` have passed."""
    assert child.process.stdout is not None
    deadline = time.monotonic() + seconds
    while b"\n" not in child.unread:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([child.process.stdout], [], [], left)[0]:
            return None
        more = os.read(child.process.stdout.fileno(), 65536)
        if not more:
            return None
        child.unread.extend(more)
    line, _, rest = bytes(child.unread).partition(b"\n")
    child.unread[:] = rest
    value: dict[str, Any] = json.loads(line)
    return value


def reason_of(child: Child, logger: Logger) -> str:
    """Why there was no answer, without secrets."""
    with suppress(subprocess.TimeoutExpired):
        child.process.wait(timeout=1)
    if child.process.poll() is None:
        return f"no answer within logger.timeout={logger.timeout:g} s"
    lines = child.errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return one_line(lines[-1] if lines else f"it ended with status {child.process.returncode}")


def one_line(reason: str) -> str:
    """A reason on one line, without secrets."""
    return str(redact(" ".join(reason.split())))[:300]


def order_and_answers() -> tuple[dict[str, Any], TextIO]:
    """In the process: its order, and a file for its answers that no other output reaches."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    order = json.load(sys.stdin)
    signal.alarm(math.ceil(order["seconds"]) + 30)
    return order, answers


def failure(error: Exception) -> dict[str, str]:
    """In the process: the answer for an order that failed with ``error``."""
    return {"failed": f"{type(error).__name__}: {error}"}


def root_of(logger: Logger) -> Path:
    """The folder that contains ``wandb/``."""
    return Path(logger.dir).absolute()


def _environment(logger: Logger) -> dict[str, str]:
    """Environment without credentials but wandb's own, none offline, and without wandb settings we
    make.
    """
    found = {name: v for name, v in os.environ.items() if not is_secret_variable(name)}
    found = {name: v for name, v in found.items() if not name.startswith("WANDB_")}
    if logger.mode == "online":
        found |= {name: os.environ[name] for name in _KEPT if name in os.environ}
    else:  # a proxy's address can hold a password, which an error message would quote
        found = {name: v for name, v in found.items() if not name.lower().endswith("_proxy")}
    folder = root_of(logger) / "wandb"
    kept = {
        "WANDB_DATA_DIR": folder / "data",
        "WANDB_CACHE_DIR": folder / "cache",
        "WANDB_ERROR_REPORTING": "false",  # wandb's own, to a third party
    }
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**found, **{k: str(v) for k, v in kept.items()}, "PYTHONPATH": path}
