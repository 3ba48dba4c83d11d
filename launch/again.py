"""Evaluations in which a judge failed to reply: a later run takes them up where they stopped."""

from __future__ import annotations

from coincide.schema import UserError
from coincide.store import Artifact, Step
from launch.jobs import Job


def unanswered(job: Job) -> list[tuple[Step, Artifact]]:
    """The finished evaluations of the run that lack replies of a judge, their model being there."""
    store = job.experiment.store
    try:
        scores = job.experiment.scores if "evaluate" in job.stages else []
    except UserError:
        return []  # what is missing is told by the plan
    found = ((step, store.find(step)) for step in scores)
    return [
        (step, artifact)
        for step, artifact in found
        if artifact and failed_calls(artifact) and all(store.find(need) for need in step.needs)
    ]


def failed_calls(artifact: Artifact) -> int:
    """Calls of the judge that gave no usable reply."""
    return int(artifact.manifest.get("facts", {}).get("judge_failed", 0))


def reopen_unanswered(job: Job) -> None:
    """Make these evaluations unfinished ones again: answers and replies stay, scores go.

    With ``dry_run`` it only says which.
    """
    for step, artifact in unanswered(job):
        calls = f"{failed_calls(artifact)} judge calls failed"
        if job.cfg.dry_run:
            print(f"{step.folder}: {calls}; a run asks for them again", flush=True)
            continue
        print(f"{step.folder}: {calls}; asking for them again", flush=True)
        job.experiment.store.reopen(step, ["result.json"])
