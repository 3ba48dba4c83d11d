"""What a queued job does: build the steps that are its share, record the runs that end there."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from coincide.features.extract import extract_all
from coincide.store import Step
from launch.jobs import Hands, Job, record
from launch.plan import KEY_DIGITS


def work(jobs: Sequence[Job], keys: Collection[str], hands: Hands) -> None:
    """Build the steps whose keys begin with ``keys``; ``jobs`` are runs that make them.

    Then the runs among ``jobs`` whose scores are complete get their line in the ledger.
    """
    wanted = set(keys)
    if extract_together(jobs, wanted):
        for job in jobs:
            hands.after("features", job)
    for job in jobs:
        for stage in job.experiment.stages(job.stages):
            todo = [step for step in stage.steps if _missing(job, step, wanted)]
            if todo and stage.name != "features":
                print(f"{stage.name}: {', '.join(step.folder for step in todo)}", flush=True)
                stage.build(job.experiment.store, todo)
                if stage.name in ("select", "train"):
                    hands.after(stage.name, job)
    for job in jobs:
        if ends_here(job, wanted):
            record(job)
            hands.after("evaluate", job)


def extract_together(jobs: Sequence[Job], wanted: Collection[str]) -> bool:
    """The signals among ``wanted``, of all the runs, together; whether there were any."""
    found = {
        each.step.key: each
        for job in jobs
        for each in job.experiment.wanted
        if each.step.key[:KEY_DIGITS] in wanted
    }
    if found:
        print(f"features: {', '.join(f.step.folder for f in found.values())}", flush=True)
        extract_all(jobs[0].experiment.store, list(found.values()))
    return bool(found)


def ends_here(job: Job, wanted: Collection[str]) -> bool:
    """Whether these steps, or none, were what the scores of the run waited for."""
    if "evaluate" not in job.stages:
        return False
    scores = job.experiment.scores
    ours = not wanted or any(step.key[:KEY_DIGITS] in wanted for step in scores)
    return ours and all(job.experiment.store.find(step) for step in scores)


def _missing(job: Job, step: Step, wanted: Collection[str]) -> bool:
    return step.key[:KEY_DIGITS] in wanted and job.experiment.store.find(step) is None
