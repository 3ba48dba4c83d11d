"""What is measured: a benchmark is one YAML of ``conf/benchmark``, a suite one of ``conf/eval``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coincide.schema import UserError

TASKS = Path(__file__).resolve().parent / "tasks"
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Benchmark:
    """One lmms-eval task, the numbers taken from it, and the protocol that they belong to."""

    name: str
    """What tables call it."""
    task: str
    """lmms-eval's name of the task."""
    metrics: Mapping[str, str]
    """Our name of a number -> lmms-eval's, e.g. ``accuracy: exact_match``. lmms-eval's may name a
    filter after a comma: ``exact_match,flexible-extract``; without one it is ``none``."""
    primary: str
    """The metric that stands for the benchmark in Rel. (%)."""
    protocol: Mapping[str, Any]
    """Split, prompt, OCR tokens, scoring: what must agree before two scores are compared."""
    chance: float = 0.0
    """The primary metric of an answerer that does not look, on the metric's own scale."""
    range: Sequence[float] = (0.0, 1.0)
    """Lowest and highest value of the primary metric."""
    tasks_dir: str | None = None
    """Folder with the task's YAML: absolute, or below ``eval/tasks``. None: lmms-eval's own."""
    data: Mapping[str, str] = field(default_factory=dict)
    """Split -> parquet file in the data artifact. Empty: the dataset that the task names."""
    generation: Mapping[str, Any] = field(default_factory=dict)
    """Replaces the task's ``generation_kwargs`` when given."""
    limit: int | None = None
    """Only the first so many samples."""
    judge: bool = False
    """Scored by a judge model."""

    def __post_init__(self) -> None:
        _require(
            self.primary in self.metrics,
            f"benchmark {self.name}: primary={self.primary!r}; the choices are its metrics, "
            f"{', '.join(self.metrics) or 'of which there are none'}.",
        )
        _require(
            self.limit is None or (type(self.limit) is int and self.limit >= 1),
            f"benchmark {self.name}: limit={self.limit!r}; expected a count of samples >= 1, or "
            "null for all.",
        )
        _require(
            len(self.range) == 2 and self.range[0] <= self.chance < self.range[1],
            f"benchmark {self.name}: range={list(self.range)}, chance={self.chance}; expected "
            "low <= chance < high.",
        )

    @property
    def tasks_path(self) -> Path | None:
        """The folder with the task's YAML, None for lmms-eval's own tasks."""
        return None if self.tasks_dir is None else TASKS / self.tasks_dir

    @property
    def protocol_text(self) -> str:
        """The protocol as one line, the number of samples included when it is limited."""
        limit = {} if self.limit is None else {"limit": self.limit}
        return "; ".join(f"{key}={value}" for key, value in {**self.protocol, **limit}.items())

    def answer_config(self) -> dict[str, Any]:
        """Everything that changes the result. ``chance`` and ``range`` only change its reading."""
        return {
            "benchmark": self.name,
            "task": self.task,
            "task_files": _digest(self.tasks_path, self.task) if self.tasks_path else None,
            "metrics": dict(self.metrics),
            "primary": self.primary,
            "protocol": dict(self.protocol),
            "data": dict(self.data),
            "generation": dict(self.generation),
            "limit": self.limit,
        }


@dataclass(frozen=True)
class Suite:
    """Benchmarks measured together, and how fast: batch size and device change no answer."""

    name: str
    benchmarks: Mapping[str, Benchmark]
    dtype: str = "float32"
    """Precision of the model. It can change answers, so it is part of the key."""
    batch_size: int = 16
    device: str = "auto"
    """``auto``: the first GPU, else the CPU."""
    threads: int | None = None
    """CPU threads of the evaluation; None leaves it to torch."""

    def __post_init__(self) -> None:
        names = [benchmark.name for benchmark in self.benchmarks.values()]
        _require(bool(names), f"eval suite {self.name}: expected at least one benchmark.")
        _require(
            len(set(names)) == len(names),
            f"eval suite {self.name}: two benchmarks share a name among {', '.join(names)}.",
        )
        _require(
            self.dtype in DTYPES,
            f"eval.dtype={self.dtype!r}; the choices are {', '.join(DTYPES)}.",
        )
        _require(
            type(self.batch_size) is int and self.batch_size >= 1,
            f"eval.batch_size={self.batch_size!r}; expected an int >= 1.",
        )


def _digest(folder: Path, task: str) -> str:
    """Hash over the task's folder, so that an edited prompt or metric is a new result."""
    files = sorted(p for p in folder.rglob("*") if p.suffix in (".yaml", ".py", ".txt"))
    _require(
        (folder / f"{task}.yaml").is_file(),
        f"{folder / f'{task}.yaml'}: no such file, where the task {task!r} was looked for; there "
        f"are {', '.join(p.stem for p in files if p.suffix == '.yaml') or 'none'}.",
    )
    digest = hashlib.sha256()
    for path in files:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)
