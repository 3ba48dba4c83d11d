"""Jobs: the runs of one command, and what every launcher does with them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from coincide.config import check_stages
from coincide.experiment import Experiment
from coincide.ledger.collect import remarks
from coincide.ledger.files import write_result
from coincide.stages import result_of, stages_of
from launch.show import show_result
from launch.words import shell


@dataclass(frozen=True)
class Job:
    """One run of the command, a job in Hydra's sense: its configuration and the experiment made
    from it.
    """

    cfg: DictConfig
    experiment: Experiment

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages asked for, in pipeline order."""
        return check_stages(list(self.cfg.stages))

    @property
    def words(self) -> str:
        """Its overrides as on a command line."""
        return shell(self.experiment.words) or "(defaults)"


def with_stages(job: Job, *stages: str) -> Job:
    """The same run with other stages."""
    cfg = OmegaConf.merge(job.cfg, {"stages": list(stages)})
    assert isinstance(cfg, DictConfig)
    return Job(cfg, job.experiment)


def goal(job: Job) -> tuple[str, ...]:
    """Keys of the artifacts that the run ends with.

    Two runs with the same goal are the same run.
    """
    if job.stages == ("report",):
        return ("report",)
    return tuple(step.planned for step in stages_of(job.experiment, job.stages)[-1].steps)


def without_duplicates(jobs: Sequence[Job]) -> list[Job]:
    """The jobs, without those that end in the same artifacts as an earlier one; prints which."""
    first: dict[object, Job] = {}
    common = set.intersection(*(set(job.experiment.words) for job in jobs))
    for job in jobs:
        try:
            key: object = goal(job)
        except Exception:
            key = id(job)  # it will say so itself when its turn comes
        earlier = first.setdefault(key, job)
        if earlier is not job and job.stages != ("report",):
            ours, theirs = (_without(common, each) for each in (job, earlier))
            print(f"left out: {ours} (the same as {theirs})", flush=True)
    return list(first.values())


def _without(common: Collection[str], job: Job) -> str:
    """The words of the job that not all jobs have in common."""
    return " ".join(w for w in job.experiment.words if w not in common) or job.words


def record(job: Job, failures: Mapping[str, str] | None = None) -> None:
    """Write the result of a run whose artifacts all exist to the ledger, and print it.

    ``failures``: benchmark -> reason, for benchmarks without an artifact; their scores are missing.
    """
    result = result_of(job.experiment, failures)
    path = write_result(Path(job.cfg.paths.ledger), result)
    show_result(result, path, remarks(job.experiment.store, result.scores))
