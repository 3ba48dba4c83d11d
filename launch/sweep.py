"""The folder of a sweep: what was frozen, what its jobs do, and the events of their attempts.

<sweeps>/code/<12 hex>/                the code, once per content
<sweeps>/<id>/sweep.json               the command, and the words of every run
<sweeps>/<id>/runs/<goal>.yaml         the frozen run
<sweeps>/<id>/jobs/<name>.json         what a job does (:class:`Task`)
<sweeps>/<id>/jobs/<name>.events.jsonl submitted, started, signalled, ended
<sweeps>/<id>/logs/<name>.log          output, over all attempts
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from coincide.schema import UserError
from coincide.system.files import as_name, canonical, digest_of, write_json
from coincide.terminal.redact import redact
from launch.frozen import freeze, resolved_run
from launch.jobs import Job
from launch.plan import KEY_DIGITS, Node, goal_key
from launch.snapshot import snapshot

REPORT = "report"
"""Name of the last job."""


@dataclass(frozen=True)
class Task:
    """A node on disk: everything needed to execute it and to tell its state."""

    name: str
    stage: str
    kind: str
    command: tuple[str, ...]
    code: str
    """Folder of the copy of the code that it runs from."""
    folder: str
    """Folder in which the command runs."""
    events: str
    log: str
    failures: int
    """Number of failures after which it is given up."""
    after: tuple[str, ...] = ()
    artifacts: tuple[str, ...] = ()
    """Paths of manifests; if they exist, the steps are built."""
    keys: tuple[str, ...] = ()
    """Keys of its steps, and goals of the runs whose results it writes."""

    @staticmethod
    def read(path: Path) -> Task:
        value = _object(path)
        known = {field.name for field in fields(Task)}  # an older version may have written others
        found: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in value.items() if k in known
        }
        return Task(**found)

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))

    def note(self, event: str, **facts: Any) -> None:
        """Append an event."""
        line = json.dumps({"event": event, "time": round(time.time(), 3), **facts})
        with Path(self.events).open("a", encoding="utf-8") as handle:
            handle.write(line + "\n")

    def history(self) -> list[dict[str, Any]]:
        """All events so far; a half-written last line is left out.

        Raises UserError, naming the file, for other damage.
        """
        path = Path(self.events)
        content = path.read_bytes() if path.is_file() else b""
        return [_object(path, line) for line in content.rpartition(b"\n")[0].splitlines()]

    def built(self) -> bool:
        """Whether its artifacts exist."""
        return bool(self.artifacts) and all(Path(path).is_file() for path in self.artifacts)


@dataclass(frozen=True)
class Sweep:
    """A sweep's folder, by its id."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    def run(self, job: Job) -> Path:
        """File in which ``job`` is frozen: named by its goal, independent of the order of words."""
        method, seed = job.experiment.method.name, job.experiment.seed
        return self.path / "runs" / f"{method}-s{seed}-{goal_key(job)[:8]}.yaml"

    def file(self, name: str) -> Path:
        """File of the task ``name``."""
        return self.path / "jobs" / f"{name}.json"

    def owns(self, task: Task) -> bool:
        return Path(task.events).parent == self.path / "jobs"

    def tasks(self) -> list[Task]:
        """The tasks in the order of submission."""
        found = [Task.read(p) for p in self.path.glob("jobs/*.json") if p.name[0] != "."]
        return sorted(found, key=lambda task: (_submitted(task), task.name))

    def record(self) -> dict[str, Any]:
        """``sweep.json``: folder, command, and the runs with their words and files."""
        return _object(self.path / "sweep.json")


def _object(path: Path, text: bytes | None = None) -> dict[str, Any]:
    """The JSON object in ``path``, or in its line ``text``.

    Raises UserError, naming the file, if there is none.
    """
    try:
        found = json.loads((path.read_bytes() if text is None else text).decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, error) from error
    if not isinstance(found, dict):
        raise _damaged(path, ValueError("it holds no object"))
    return found


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path} cannot be read ({error}). Put it back from a copy, or submit the sweep again: "
        "what its runs finished is in the store and is not done twice."
    )


def _submitted(task: Task) -> float:
    return next((e["time"] for e in reversed(task.history()) if e["event"] == "submit"), 0.0)


def open_sweep(which: str, sweeps: Path) -> Sweep:
    """The sweep with id ``which`` below ``sweeps``, or in the folder ``which``.

    Raises UserError if there is none.
    """
    for path in (sweeps / which, Path(which)):
        if (path / "sweep.json").is_file():
            return Sweep(path.absolute())
    found = [p.parent.name for p in sorted(sweeps.glob("*/sweep.json"))]
    raise UserError(
        f"sweep={which}: no such sweep below {sweeps.absolute()}; there are: "
        f"{', '.join(found) or 'none'}."
    )


def sweep_id(jobs: Sequence[Job]) -> str:
    """``<data>-<n>-runs-<8 hex>``: the same for the same runs."""
    configs = [{**resolved_run(job)["config"], "logger": None} for job in jobs]
    digest = digest_of(sorted(map(canonical, configs)))
    runs = f"{len(jobs)}-run{'s' if len(jobs) > 1 else ''}"
    return f"{as_name(jobs[0].experiment.source.name, 60)}-{runs}-{digest[:8]}"


def freeze_sweep(jobs: Sequence[Job], folder: Path) -> Sweep:
    """Write the frozen runs, unless this sweep was submitted before."""
    sweep = Sweep(Path(jobs[0].cfg.paths.sweeps).absolute() / sweep_id(jobs))
    for name in ("runs", "jobs", "logs"):
        (sweep.path / name).mkdir(parents=True, exist_ok=True)
    for job in jobs:
        freeze(job, sweep.run(job), folder)
    runs = [{"words": redact(job.words), "file": str(sweep.run(job))} for job in jobs]
    command = shlex.join(["python", *(redact(word) for word in sys.argv)])
    record = {"folder": str(folder), "command": command, "runs": runs}
    write_json(sweep.path / "sweep.json", record, mode=0o600)
    return sweep


def freeze_code(sweep: Sweep) -> Path:
    """Copy the code as it is now; returns the copy."""
    return snapshot(sweep.path.parent / "code")


def tasks_of(
    nodes: Sequence[Node], jobs: Sequence[Job], sweep: Sweep, code: Path, failures: int
) -> list[Task]:
    """The tasks that execute ``nodes``."""
    return [_task(node, jobs, sweep, code, failures) for node in nodes]


def _task(node: Node, jobs: Sequence[Job], sweep: Sweep, code: Path, failures: int) -> Task:
    runs = ",".join(str(sweep.run(jobs[number])) for number in node.runs)
    steps = ",".join(step.planned[:KEY_DIGITS] for step in node.steps)
    store = jobs[0].experiment.store
    return Task(
        name=node.name,
        stage=node.stage,
        kind=node.kind,
        command=_command(code, f"frozen=[{runs}]", f"steps=[{steps}]"),
        artifacts=tuple(str(store.path(step) / "manifest.json") for step in node.steps),
        keys=(
            *(name for step in node.steps for name in step.names),
            *(goal_key(jobs[n]) for n in node.records),
        ),
        after=node.after,
        **_common(node.name, sweep, code, failures),
    )


def report_task(sweep: Sweep, code: Path, after: Iterable[str]) -> Task:
    """The last task, which runs whatever became of the others."""
    runs = ",".join(run["file"] for run in sweep.record()["runs"])
    return Task(
        name=REPORT,
        stage=REPORT,
        kind=REPORT,
        command=_command(code, f"frozen=[{runs}]", "stages=[report]"),
        after=tuple(after),
        **_common(REPORT, sweep, code, 1),
    )


def _command(code: Path, *words: str) -> tuple[str, ...]:
    return (sys.executable, str(code / "run.py"), *words)


def _common(name: str, sweep: Sweep, code: Path, failures: int) -> dict[str, Any]:
    return {
        "code": str(code),
        "folder": os.fspath(Path(sweep.record()["folder"])),
        "events": str(sweep.path / "jobs" / f"{name}.events.jsonl"),
        "log": str(sweep.path / "logs" / f"{name}.log"),
        "failures": failures,
    }
