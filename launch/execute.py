"""Execute runs in this process: plan, show, build, record, report. All launchers use this."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Protocol

from coincide.checks.estimate import costs
from coincide.checks.flops import device_name
from coincide.checks.needs import check_resume, gather, unmet_requirements
from coincide.checks.needs import show as show_requirements
from coincide.errors import PartlyFailed
from coincide.experiment import Experiment
from coincide.ledger.files import read_ledger
from coincide.pipeline import Planned, execute, plan
from coincide.report.build import build_report
from coincide.report.committed import with_committed
from coincide.report.summary import shown_panels, summary_tables
from coincide.stages import extract, stages_of
from coincide.store import Step
from launch.jobs import Job, record
from launch.plan import KEY_DIGITS
from launch.show import number_of_rows, show_costs, show_plan, show_report, show_subset, title


class Observer(Protocol):
    """Is notified of what runs have made, e.g. the logger. Must not raise."""

    def after(
        self, stage: str, experiment: Experiment, failures: Mapping[str, str] | None = None
    ) -> None:
        """The artifacts of ``stage`` exist, except those of ``failures`` (benchmark -> why)."""
        ...

    def finish(self, experiments: Sequence[Experiment]) -> None:
        """The last of several runs has ended."""
        ...


@dataclass(frozen=True)
class Executor:
    """Executes runs, or single steps of them, in this process."""

    observer: Observer

    def run(self, job: Job) -> None:
        """Plan and show the plan; unless ``dry_run``, build, write the result and report."""
        experiment, stages = job.experiment, job.stages
        failed: PartlyFailed | None = None
        if job.cfg.dry_run:
            show_dry_run(experiment, stages)
            return
        if stages != ("report",):
            failed = self._build(experiment, stages)
        if "evaluate" in stages:
            failures = failed.failures if failed else {}
            record(job, failures)
            self.observer.after("evaluate", experiment, failures)
        elif "select" in stages:
            show_subset(experiment)
        if "report" in stages:
            results = with_committed(read_ledger(Path(job.cfg.paths.ledger)))
            found = shown_panels(results)
            folder = Path(job.cfg.paths.reports)
            pages = build_report(results, folder, experiment.store, panels=found)
            show_report(summary_tables(results, found), pages)
        if failed:
            raise failed

    def _build(self, experiment: Experiment, stages: Sequence[str]) -> PartlyFailed | None:
        """Build what the plan says; returns the failure of some benchmarks if others succeeded.

        If a finetuning is to be built, documents of the benchmarks are tried before anything else.
        """
        failed: PartlyFailed | None = None
        lines = _plan(experiment, stages)
        if any(line.step.kind == "scan" and line.state == "build" for line in lines):
            execute([line for line in lines if line.stage.name == "prepare"], experiment.store)
            changed = experiment.settle()  # keys hold which rows cannot be learnt from
            lines = (_plan if changed else _lines)(experiment, stages)
        if "train" in stages:
            check_resume(experiment)
        building = {line.stage.name for line in lines if line.state == "build"}
        untried = {"train", "evaluate"} <= building
        for stage, of_stage in groupby(lines, key=lambda line: line.stage.name):
            if untried and stage != "prepare" and stage in building:
                experiment.evaluation.examine(experiment.store, experiment.scores)
                untried = False
            try:
                execute(list(of_stage), experiment.store)
            except PartlyFailed as error:
                if not measured(experiment, error.failures):
                    raise
                failed = error
            if stage in stages and stage != "evaluate":
                self.observer.after(stage, experiment)
        return failed

    def steps(self, jobs: Sequence[Job], keys: Collection[str]) -> None:
        """The work of a queued job: build the steps whose keys begin with ``keys``.

        ``jobs`` are runs that these steps belong to. Runs whose scores are complete afterwards, or
        complete except for benchmarks that failed, get their result written to the ledger. Raises
        PartlyFailed after that if a benchmark failed.
        """
        wanted = set(keys)
        failed: list[PartlyFailed] = []
        failures: dict[int, Mapping[str, str]] = {}
        if _extract_together(jobs, wanted):
            for job in jobs:
                self.observer.after("features", job.experiment)
        for number, job in enumerate(jobs):
            try:
                self._steps(job, wanted)
            except PartlyFailed as error:
                failed.append(error)
                failures[number] = error.failures
        for number, job in enumerate(jobs):
            lost = failures.get(number, {})
            if ends_here(job, wanted, lost):
                record(job, lost)
                self.observer.after("evaluate", job.experiment, lost)
        if failed:
            names = {name: why for error in failed for name, why in error.failures.items()}
            raise PartlyFailed("\n\n".join(dict.fromkeys(map(str, failed))), names)

    def _steps(self, job: Job, wanted: Collection[str]) -> None:
        """Build the missing steps among ``wanted``; signals are built already."""
        experiment = job.experiment
        for stage in stages_of(experiment, job.stages):
            todo = [step for step in stage.steps if _missing(job, step, wanted)]
            if not todo or stage.name == "features":
                continue
            print(f"{stage.name}: {', '.join(step.folder for step in todo)}", flush=True)
            if stage.name == "train" and "evaluate" in job.stages:
                experiment.evaluation.examine(experiment.store, experiment.scores)
            stage.build(experiment.store, todo)
            if stage.name in ("select", "train"):
                self.observer.after(stage.name, experiment)

    def finish(self, jobs: Sequence[Job]) -> None:
        """The last of several runs has ended."""
        self.observer.finish([job.experiment for job in jobs])


class Launcher(Protocol):
    """An object of ``conf/launcher``."""

    def launch(self, jobs: Sequence[Job], executor: Executor) -> int:
        """Execute ``jobs``, or submit them; returns the exit status of the command."""
        ...


def show_dry_run(experiment: Experiment, stages: Sequence[str]) -> None:
    """Print the plan and its estimated cost; or the missing files, if keys cannot be computed
    without them.
    """
    if unmet_requirements([(experiment, stages)]):
        print(f"{title(experiment)}: there is no plan before what is missing here is there.")
        show_requirements(gather([(experiment, stages)]))
    elif stages != ("report",):
        _plan(experiment, stages)
    show_costs(costs(experiment, stages, device_name()))


def _lines(experiment: Experiment, stages: Sequence[str]) -> list[Planned]:
    return plan(stages_of(experiment, stages), experiment.store, stages)


def _plan(experiment: Experiment, stages: Sequence[str]) -> list[Planned]:
    """Make the plan and print it."""
    lines = _lines(experiment, stages)
    show_plan(lines, experiment.store, number_of_rows(experiment))
    return lines


def ends_here(job: Job, wanted: Collection[str], failures: Collection[str] = ()) -> bool:
    """Whether the run's scores were only waiting for the steps ``wanted`` (or for none).

    ``failures``: benchmarks that failed and have no score for now.
    """
    if "evaluate" not in job.stages:
        return False
    scores = job.experiment.scores
    ours = not wanted or any(step.planned[:KEY_DIGITS] in wanted for step in scores)
    return ours and measured(job.experiment, failures)


def measured(experiment: Experiment, failures: Collection[str]) -> bool:
    """Whether the run has at least one score, and lacks only those of ``failures``."""
    left = [step for step in experiment.scores if experiment.store.find(step) is None]
    names = {step.config["benchmark"] for step in left}
    return len(left) < len(experiment.scores) and names <= set(failures)


def _extract_together(jobs: Sequence[Job], wanted: Collection[str]) -> bool:
    """Compute the signals among ``wanted`` for all the runs; returns whether there were any."""
    found = {
        each.step.key: each
        for job in jobs
        for each in job.experiment.wanted
        if each.step.planned[:KEY_DIGITS] in wanted
    }
    if found:
        print(f"features: {', '.join(f.step.folder for f in found.values())}", flush=True)
        first = jobs[0].experiment
        extract(first, first.store, list(found.values()))
    return bool(found)


def _missing(job: Job, step: Step, wanted: Collection[str]) -> bool:
    return step.planned[:KEY_DIGITS] in wanted and job.experiment.store.find(step) is None
