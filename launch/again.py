"""Reopen evaluations in which judge calls failed, so that a later run completes them."""

from __future__ import annotations

from coincide.schema import UserError
from coincide.store import Artifact, Step
from launch.jobs import Job


def unanswered_evaluations(job: Job) -> list[tuple[Step, Artifact]]:
    """Finished evaluations of the run with failed judge calls, whose needs are still in the
    store.
    """
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
    """Number of judge calls that gave no usable reply."""
    return int(artifact.manifest.get("facts", {}).get("judge_failed", 0))


def reopen_unanswered(job: Job) -> None:
    """Make these evaluations unfinished again: answers and replies are kept, scores are removed.

    With ``dry_run`` it only prints which ones.
    """
    for step, artifact in unanswered_evaluations(job):
        calls = f"{failed_calls(artifact)} judge calls failed"
        if job.cfg.dry_run:
            print(f"{step.folder}: {calls}; a run asks for them again", flush=True)
            continue
        print(f"{step.folder}: {calls}; asking for them again", flush=True)
        job.experiment.store.reopen(step, ["result.json"])
