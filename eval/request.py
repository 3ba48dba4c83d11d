"""The JSON files between the pipeline and the evaluation process."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from coincide.system.files import write_json
from eval.judge import Judge
from eval.sample import Subsample

HOW = "how.json"
"""How a benchmark's answers were computed: beside its results, until the manifest holds it."""


@dataclass(frozen=True)
class BenchmarkJob:
    """One benchmark for the evaluation process. Paths are absolute.

    Fields as in ``eval.suite.Benchmark``.
    """

    name: str
    task: str
    metrics: Mapping[str, str]
    primary: str
    protocol: str
    output: str
    """Folder for ``result.json`` and ``samples.jsonl``."""
    tasks_dir: str | None = None
    data_files: Mapping[str, str] = field(default_factory=dict)
    generation: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None
    overlay: str | None = None
    """YAML whose keys replace those of the task."""
    stop: Sequence[str] | None = None
    """Stop texts that the protocol states; None: it states none."""
    tokens: int | None = None
    """Most new tokens of an answer that the protocol states; None: it states none."""
    where: Mapping[str, Any] = field(default_factory=dict)
    subsample: Subsample | None = None
    scale: float = 1.0
    parts: str = "mean"
    unit: str | None = None
    judged: bool = False
    known: Sequence[str] = ()
    """Samples of other evaluations of the model, in which its answers may stand already."""


@dataclass(frozen=True)
class EvaluationRequest:
    """A model and the benchmarks to evaluate it on."""

    model: str
    """Folder of the base model."""
    adapter: str | None
    """Folder of a PEFT adapter for it; None: the base model itself."""
    template: str
    dtype: str
    device: str
    batch_size: int
    threads: int | None
    cache: str
    """Folder for the caches of the Hugging Face libraries."""
    jobs: tuple[BenchmarkJob, ...]
    judge: Judge = field(default_factory=Judge)
    batch_tokens: int | None = None
    """Most tokens in caches of the engine that shares prefixes; None: plain batches."""
    likelihood: bool = False
    """Take the likelihood of the right answers, too."""
    examine: bool = False
    """Only try documents, without the model."""

    def write(self, path: Path) -> None:
        """Write it, readable for this user alone: the judge's address may contain a password."""
        write_json(path, asdict(self), mode=0o600)

    @classmethod
    def read(cls, path: Path) -> EvaluationRequest:
        record = json.loads(path.read_text(encoding="utf-8"))
        jobs = tuple(read_job(job) for job in record.pop("jobs"))
        return cls(**{**record, "jobs": jobs, "judge": Judge(**record["judge"])})


def read_job(record: dict[str, Any]) -> BenchmarkJob:
    """The job of a record that ``dataclasses.asdict`` made."""
    subsample = record["subsample"]
    return BenchmarkJob(**{**record, "subsample": Subsample(**subsample) if subsample else None})
