"""``launcher=processes``: several jobs at a time on this machine, each in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from coincide.schema import UserError
from coincide.system.forkserver import Process, serving
from launch.execute import Executor
from launch.jobs import Job, with_stages
from launch.status import failure_text
from launch.submit import freeze_all, plan_sweep
from launch.supervise import begin, close, environment, given_up, pass_on
from launch.sweep import REPORT, Task

POLL_SECONDS = 0.05
WORTH = 3
"""Tasks from which on importing the libraries once pays."""
_TORCH = (
    "torch", "transformers", "transformers.models.llava.modeling_llava", "coincide.models.load",
    "coincide.features.forward.rows", "coincide.models.encode",
)  # fmt: skip
_TRAINING = (
    *_TORCH, "accelerate", "peft", "transformers.trainer", "train.worker", "train.trainer",
    "train.lora", "train.data", "train.tensors_only",
)  # fmt: skip
_HARNESS = (
    "lmms_eval.evaluator", "lmms_eval.tasks", "eval.kept", "eval.order", "eval.judged",
    "eval.loading", "eval.scores", "eval.units", "eval.model",
)  # fmt: skip
LIBRARIES = {
    "features": _TORCH, "difficulty": _TRAINING, "merged": _TORCH,
    "adapter": (*_TRAINING, *_HARNESS), "eval": (*_TORCH, *_HARNESS),
}  # fmt: skip
"""Kind of a task -> modules that its processes import."""


@dataclass(frozen=True)
class Processes:
    """Runs the jobs of a sweep as processes; each starts once what it needs exists."""

    at_once: int = 2
    """Processes at a time. They share the cores and take the GPUs in turn."""
    fork: bool = True
    """Fork the processes from one that has imported the libraries, which saves a third of a small
    run; never where GPUs are used. False: each imports them itself."""
    failures: int = 1
    """Number of failures after which a job is given up."""

    def __post_init__(self) -> None:
        if self.at_once < 1 or self.failures < 1:
            raise UserError("launcher.at_once and launcher.failures: expected 1 or more.")

    def launch(self, jobs: Sequence[Job], executor: Executor) -> int:
        """Run the whole sweep; 2 if a job failed, with the end of its log."""
        if jobs[0].stages == (REPORT,):
            executor.run(jobs[0])
            return 0
        nodes = plan_sweep(jobs, lambda job: True, {})
        if jobs[0].cfg.dry_run:
            return 0
        sweep, tasks = freeze_all(nodes, jobs, self.failures)
        for task in tasks:
            task.write(sweep.file(task.name))
            task.note("submit", host=socket.gethostname(), pid=os.getpid())
        with self._forking(tasks):
            failed, never = run_all(tasks, self.at_once)
        if REPORT in jobs[0].stages:
            executor.run(with_stages(jobs[0], REPORT))
        executor.finish(jobs)
        for task in failed:
            print(failure_text(task), file=sys.stderr)
        if never:
            print(f"not run, since they stand on these: {_names(never)}", file=sys.stderr)
        return 2 if failed else 0

    def _forking(self, tasks: Sequence[Task]) -> AbstractContextManager[None]:
        """Fork the processes from one that has the libraries, if there are several to start."""
        if not self.fork or len(tasks) < WORTH or visible_gpus():
            return nullcontext()
        kinds = {task.kind for task in tasks}
        modules = [name for kind in LIBRARIES if kind in kinds for name in LIBRARIES[kind]]
        return serving(
            ["run", *modules], Path(tasks[0].code), _environment(tasks[0], 0, self.at_once)
        )


def _names(tasks: Sequence[Task]) -> str:
    return ", ".join(task.name for task in tasks)


def run_all(tasks: Sequence[Task], at_once: int) -> tuple[list[Task], list[Task]]:
    """Run the tasks, ``at_once`` at a time.

    Returns those that failed and those that could not start.
    """
    waiting = {task.name: task for task in tasks}
    running: dict[int, tuple[Task, Process]] = {}
    done: set[str] = set()
    failed: list[Task] = []
    with pass_on(lambda: [process for _, process in running.values()]) as received:
        while running or (waiting and not received):
            for slot, (task, process) in list(running.items()):
                if (code := process.poll()) is None:
                    continue
                del running[slot]
                if (how := close(task, code, received)) == "done":
                    done.add(task.name)
                elif how == "failed" and not given_up(task):
                    waiting = {task.name: task, **waiting}
                else:
                    failed.append(task)
                print(f"{how}: {task.name}", flush=True)
            ready = [task for task in waiting.values() if done.issuperset(task.after)]
            free = [slot for slot in range(at_once) if slot not in running]
            for slot, task in zip(free, [] if received else ready, strict=False):
                del waiting[task.name]
                running[slot] = (task, begin(task, _environment(task, slot, at_once)))
            if not running and not ready:
                break
            time.sleep(POLL_SECONDS)
    return failed, list(waiting.values())


def _environment(task: Task, slot: int, at_once: int) -> dict[str, str]:
    """Environment of a process: its share of the cores, and the GPU of its slot."""
    cores = max(1, len(os.sched_getaffinity(0)) // at_once)
    share = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(cores))}
    if gpus := visible_gpus():
        share["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[slot::at_once]) or gpus[slot % len(gpus)]
    return environment(task, **share)


@cache
def visible_gpus() -> tuple[str, ...]:
    """Numbers of the GPUs that this process may use; torch is not imported."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return tuple(filter(None, os.environ["CUDA_VISIBLE_DEVICES"].split(",")))
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True)
    except FileNotFoundError:
        return ()
    lines = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    return tuple(str(number) for number in range(len(lines)))
