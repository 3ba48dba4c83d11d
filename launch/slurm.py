"""``launcher=slurm``: a sweep as a graph of queued jobs; the submitting shell may be closed.

Plain sbatch scripts. submitit's pickled functions and polling of the accounting would tie a job to
this Python process and to a database that many clusters lack.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from coincide.schema import UserError
from coincide.system.processes import locked
from launch import cluster
from launch.execute import Executor
from launch.jobs import Job, with_stages
from launch.plan import Node
from launch.resources import Resources, seconds
from launch.states import live_tasks
from launch.submit import freeze_all, plan_sweep
from launch.sweep import REPORT, Sweep, Task, freeze_code, report_task


@dataclass(frozen=True)
class Slurm:
    """Submits the jobs of a sweep to SLURM. Site values come from ``conf/local/cluster.yaml``."""

    gpu: Resources = field(default_factory=Resources)
    cpu: Resources = field(default_factory=Resources)
    on_gpu: tuple[str, ...] = ("features", "clusters", "difficulty", "warmup", "adapter", "eval")
    """Kinds of artifacts whose jobs get ``gpu``; all others get ``cpu``."""
    at_most: int | None = None
    """Most jobs of a sweep that run at the same time; None: no limit."""
    failures: int = 3
    """Number of failures after which a job is given up. Preemptions and time limits do not
    count."""
    warning_s: int = 120
    """Seconds before the time limit at which a job is signalled to write a checkpoint and is
    requeued."""
    setup: tuple[str, ...] = ()
    """Shell lines before the job, e.g. ``module load cuda``."""

    def __post_init__(self) -> None:
        for name in ("failures", "at_most"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"launcher.{name}={value}: expected 1 or more.")
        for name in ("gpu", "cpu"):
            if (limit := seconds(getattr(self, name).time)) <= self.warning_s:
                raise UserError(
                    f"launcher.warning_s={self.warning_s}: expected less than the time limit, "
                    f"launcher.{name}.time={getattr(self, name).time} ({limit} s)."
                )

    def launch(self, jobs: Sequence[Job], executor: Executor) -> int:
        """Submit what is missing and not queued already; print how to follow it."""
        if jobs[0].stages == (REPORT,):
            executor.run(jobs[0])
            return 0
        sweeps = Path(jobs[0].cfg.paths.sweeps).absolute()
        if jobs[0].cfg.dry_run:
            plan_sweep(jobs, self.together, in_flight(live_tasks(sweeps, cluster.queue())))
            return 0
        sweeps.mkdir(parents=True, exist_ok=True)
        with locked(sweeps / ".lock", waiting="waiting for another submission") as alone:
            if not alone:
                print(f"{sweeps} has no file locks: submit from one process at a time", flush=True)
            live = live_tasks(sweeps, cluster.queue())
            nodes = plan_sweep(jobs, self.together, in_flight(live))
            sweep, tasks = freeze_all(nodes, jobs, self.failures)
            ours = {q.id: task for q, task in live.items() if sweep.owns(task)}
            if not nodes and not ours:
                print("Everything is there; nothing to submit.")
                if REPORT in jobs[0].stages:
                    executor.run(with_stages(jobs[0], REPORT))
                return 0
            self.submit(sweep, nodes, tasks, ours, with_report=REPORT in jobs[0].stages)
        return 0

    def together(self, job: Job) -> bool:
        """Whether evaluation runs in the job of the training: unless it would leave its GPUs or
        machines idle.
        """
        recipe, suite = job.experiment.recipe, job.experiment.suite
        trains = self.gpus("adapter", recipe.processes)
        measures = self.gpus("eval", suite.processes)
        return recipe.nodes == 1 and trains <= measures

    def gpus(self, kind: str, processes: int | str = 1) -> int:
        """GPUs per machine for a job whose first artifact is of ``kind``.

        Raises UserError where the recipe asks for more than a machine has.
        """
        if kind not in self.on_gpu:
            return 0
        if processes == "auto":
            return self.gpu.gpus
        if kind in ("adapter", "warmup") and int(processes) > self.gpu.gpus > 0:
            raise UserError(
                f"train.processes={processes}: a machine has launcher.gpu.gpus={self.gpu.gpus}. "
                "Take at most so many, or more machines with train.nodes."
            )
        return min(int(processes), self.gpu.gpus)

    def submit(
        self,
        sweep: Sweep,
        nodes: Sequence[Node],
        tasks: Sequence[Task],
        ours: Mapping[str, Task],
        *,
        with_report: bool,
    ) -> None:
        """Submit ``tasks`` in order, then the report after them and after ``ours``, tasks queued
        already.

        Raises UserError when the queue refuses one; those before it stay submitted.
        """
        ids: dict[str, str] = {}
        lanes = [job for job, task in ours.items() if task.name != REPORT]
        try:
            for node, task in zip(nodes, tasks, strict=True):
                needs = [*(ids[name] for name in node.after), *node.after_jobs]
                frees = self._frees(lanes)
                ids[task.name] = self._send(sweep, node, task, needs, frees)
                lanes.append(ids[task.name])
        except UserError as error:
            raise UserError(
                f"{error}\n{len(ids)} of {len(tasks)} jobs are submitted and stay so; the same "
                "command submits the rest."
            ) from error
        cluster.cancel([job for job, task in ours.items() if task.name == REPORT])
        if with_report:
            others = [task.name for task in sweep.tasks() if task.name != REPORT]
            report = report_task(sweep, freeze_code(sweep), others)
            self._send(sweep, Node(REPORT, REPORT, REPORT), report, [], lanes)
        print(f"{len(ids)} jobs submitted to SLURM. This shell may go away; to watch them:")
        print(f"  python -m launch.status {sweep.path}", flush=True)

    def _frees(self, lanes: Sequence[str]) -> list[str]:
        """The job that must end before the next one may start, so that at most ``at_most`` run at
        once.
        """
        full = self.at_most is not None and len(lanes) >= self.at_most
        return [lanes[-self.at_most]] if full and self.at_most else []

    def _send(
        self, sweep: Sweep, node: Node, task: Task, needs: Sequence[str], frees: Sequence[str]
    ) -> str:
        """Submit a task that starts when ``needs`` have succeeded and ``frees`` have ended."""
        task.write(sweep.file(task.name))
        script = sweep.file(task.name).with_suffix(".sh")
        script.write_text(self._script(sweep, task), encoding="utf-8")
        waits = [f"afterok:{':'.join(needs)}"] if needs else []
        waits += [f"afterany:{':'.join(frees)}"] if frees else []
        job = cluster.submit(
            script,
            [
                f"--job-name={task.name}",
                f"--comment={sweep.file(task.name)}",
                f"--chdir={task.folder}",
                f"--output={task.log}",
                "--open-mode=append",
                "--requeue",
                f"--signal=B:USR2@{self.warning_s}",
                "--kill-on-invalid-dep=yes",
                *self.flags(node),
                *([f"--dependency={','.join(waits)}"] if waits else []),
            ],
        )
        task.note("submit", job=job)
        return job

    def flags(self, node: Node) -> list[str]:
        """sbatch options for the job of ``node``."""
        resources = self.gpu if node.kind in self.on_gpu else self.cpu
        return resources.flags(self.gpus(node.kind, node.processes), node.machines)

    def _script(self, sweep: Sweep, task: Task) -> str:
        code = shlex.quote(task.code)
        return "\n".join(
            [
                "#!/bin/bash",
                *self.setup,
                # only the frozen code is imported, not what lies in the current folder
                "export PYTHONSAFEPATH=1",
                f"export PYTHONPATH={code}${{PYTHONPATH:+:$PYTHONPATH}}",
                # srun inside the job would not inherit the cores
                'export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"',
                f"exec {shlex.quote(task.command[0])} -m launch.supervise "
                f"{shlex.quote(str(sweep.file(task.name)))}",
                "",
            ]
        )


def in_flight(live: Mapping[cluster.Queued, Task]) -> dict[str, str]:
    """Key of a step, or goal of a run -> id of the job that produces it."""
    return {key: queued.id for queued, task in live.items() for key in task.keys}
