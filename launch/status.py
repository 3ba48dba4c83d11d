"""``python -m launch.status <sweep>``: which jobs wait, run, are done or have failed, with
times.
"""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from coincide.schema import UserError
from coincide.terminal.inert import console, guard_terminal, inert
from launch.cluster import queue
from launch.states import STATES, format_seconds, remaining_seconds, statuses, tail
from launch.sweep import Sweep, Task, open_sweep

LOG_LINES = 15


def show(sweep: Sweep) -> int:
    """Print the table and the failures; 1 if something failed, else 0."""
    found = statuses(sweep, queue() if in_queue(sweep) else {})
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("state", "job", "attempts", "elapsed", "ETA", "why"):
        table.add_column(column, overflow="fold")
    for status in found:
        elapsed = format_seconds(status.elapsed) if status.attempts else "–"
        eta = format_seconds(status.eta) if status.state == "running" else ""
        name, attempts = status.task.name, str(status.attempts)
        table.add_row(status.state, name, attempts, elapsed, eta, inert(status.why))
    out = console()
    out.print(table)
    counts = Counter(status.state for status in found)
    said = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    left = remaining_seconds(found)
    about = f"; about {format_seconds(left)} left" if left is not None else ""
    out.print(f"{sweep.id}: {said or 'no jobs'}{about}", style="bold", highlight=False)
    failed = [status.task for status in found if status.state in ("failed", "cancelled")]
    for task in failed:
        print(failure_text(task))
    if failed:
        print(f"To submit all that is missing: {sweep.record()['command']}")
    return 1 if failed else 0


def in_queue(sweep: Sweep) -> bool:
    """Whether the sweep has jobs in SLURM, whose state only SLURM knows."""
    return any("job" in event for task in sweep.tasks() for event in task.history()[:1])


def failure_text(task: Task) -> str:
    """The end of the log, and a command that repeats the task here with the frozen code."""
    environment = ("env", "PYTHONSAFEPATH=1", f"PYTHONPATH={task.code}")
    command = shlex.join([*environment, *task.command])
    lines = "\n".join(f"  {line}" for line in tail(Path(task.log), LOG_LINES))
    return (
        f"\n{task.name}; last lines of {task.log}:\n{lines}\n"
        f"To do it again here:\n  cd {shlex.quote(task.folder)} && {command}"
    )


def main(words: Sequence[str]) -> int:
    """Print the status of a sweep, given by its id (below ./sweeps) or path."""
    if len(words) != 1:
        print("usage: python -m launch.status <sweep id, or path of its folder>", file=sys.stderr)
        return 2
    try:
        return show(open_sweep(words[0], Path("sweeps")))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    guard_terminal()
    sys.exit(main(sys.argv[1:]))
