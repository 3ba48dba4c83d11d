"""Run the evaluation process, show its progress, and report how it failed.

The worker writes one JSON object per line to its standard output: ``loaded`` (total number of
samples), ``answered`` (a number), ``done`` (a benchmark and its facts) or ``failed`` (a benchmark
and why). Everything else that it or a library prints goes to ``log.txt`` in the run's folder.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from coincide.errors import PartlyFailed
from coincide.system.disk import NEARLY, free_bytes
from coincide.system.forkserver import Process, start
from coincide.system.processes import preexec_die_with_parent
from coincide.terminal.progress import bar
from coincide.terminal.redact import redact_file

PROJECT = Path(__file__).resolve().parent.parent
WORKER = "eval.worker"
LOG_LINES = 15
WHY = 400
"""Characters of a line or reason that are shown."""


def follow(
    run: Path, names: Sequence[str], *, ranks: int = 1, folder: Path | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Run ``run/request.json``; yield each benchmark's name and facts once it is done.

    ``ranks`` processes share the documents; they run in ``folder`` (None: the current one). Raises
    PartlyFailed if a benchmark failed, after the others were done, or if the process ended without
    a message about one; OSError (ENOSPC) if the disk was full.
    """
    failures: dict[str, str] = {}
    full: list[str] = []
    benchmarks, done = len(names), 0
    with (run / "log.txt").open("wb") as log:
        process = start(
            [*command(ranks), "-m", WORKER, str(run / "request.json")],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=folder,
            env={**environment(), "PYTHONPATH": python_path(), "PYTHONUNBUFFERED": "1"},
            preexec_fn=preexec_die_with_parent(),
        )
        try:
            for finished in _listen(process, names, failures, full):
                done += 1
                yield finished
        finally:
            process.kill()
            code = process.wait()
            redact_file(run / "log.txt")
    if full or (code > 0 and free_bytes(run) < NEARLY):
        said = full[0] if full else f"the evaluation ended with {_describe(code)}"
        raise OSError(errno.ENOSPC, said)
    if failures or code or done < benchmarks:
        why = _message(code, failures, benchmarks, run / "log.txt")
        raise PartlyFailed(why, {name: _brief(said) for name, said in failures.items()})


def command(ranks: int) -> list[str]:
    """The command line in front of the worker's: python, or torchrun for several ranks."""
    if ranks == 1:
        return [sys.executable]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*torchrun, f"--nproc-per-node={ranks}"]


def _listen(
    process: Process,
    names: Sequence[str],
    failures: dict[str, str],
    full: list[str],
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read the worker's messages until they end; wait for it to exit."""
    assert process.stdout is not None
    what = names[0] if len(names) == 1 else f"{len(names)} benchmarks"
    with bar(f"evaluate {what}", total=0, unit="answers") as progress:
        for line in process.stdout:
            message = json.loads(line)
            match message.pop("event"):
                case "loaded":
                    progress.total = message["samples"]
                    progress.refresh()
                case "answered":
                    progress.update(message["count"])
                case "failed":
                    if message.get("full"):
                        full.append(f"{message['benchmark']}: {message['why']}")
                    failures.setdefault(message["benchmark"], message["why"])  # the rank that began
                case "done":
                    for note in message.get("notes", ()):
                        progress.write(f"evaluate {message['benchmark']}: {note}")
                    yield message.pop("benchmark"), message
    process.wait()


def _brief(why: str) -> str:
    """``why``, which may quote a model's reply, made fit for a terminal."""
    shown = "".join(c if c.isprintable() or c == "\n" else "?" for c in why)
    return shown if len(shown) <= WHY else f"{shown[:WHY]} ..."


def _message(code: int, failures: dict[str, str], benchmarks: int, log: Path) -> str:
    """What failed and why, the end of the log, and where the log is."""
    if failures:
        head = "\n".join(f"  {name}: {_brief(why)}" for name, why in failures.items())
        head = f"{len(failures)} of {benchmarks} benchmarks failed:\n{head}"
    else:
        head = f"the process ended with {_describe(code)} before all benchmarks were done"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
    tail = "\n".join(f"  {_brief(line)}" for line in lines)
    return (
        f"Evaluation: {head}\nLast lines of {log}:\n{tail}\n"
        "Finished benchmarks are kept; run the same command again to go on from them."
    )


def _describe(code: int) -> str:
    if code < 0:
        with suppress(ValueError):
            name = signal.Signals(-code).name
            hint = " (often the system running out of memory)" if name == "SIGKILL" else ""
            return f"{name}{hint}"
    return f"exit code {code}"


def environment() -> dict[str, str]:
    """This process's environment, without the rank variables of another launcher."""
    return {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}


def python_path() -> str:
    """``PYTHONPATH`` with the project in front."""
    return os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])
