"""What is measured: a benchmark is one YAML of ``conf/benchmark``, a suite one of ``conf/eval``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from coincide.requirements import Requirement
from coincide.schema import UserError
from eval import mirror, taskfile
from eval.judge import Judge
from eval.sample import Subsample

TASKS = Path(__file__).resolve().parent / "tasks"
DTYPES = ("float32", "bfloat16", "float16")
PROMPTS = ("lmms_eval", "llava_1_5")
"""Who asks: lmms-eval's tasks as they are, or as the scripts of LLaVA-1.5 do where these differ."""
PARTS = ("mean", "judged", "letters", "f1", "pairs", "circular", "mmmu", "preference")
"""How samples add up to the primary metric: the functions of ``eval.parts``."""


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
    """The primary metric of a guesser that draws evenly among the answers that a question itself
    offers (yes and no, the letters), on the metric's own scale; 0 where none are offered."""
    range: Sequence[float] = (0.0, 1.0)
    """Lowest and highest value of the primary metric."""
    tasks_dir: str | None = None
    """Folder with the task's YAML: absolute, or below ``eval/tasks``. None: lmms-eval's own."""
    overlay: str | None = None
    """YAML below ``eval/tasks`` whose keys replace those of the task, e.g. another prompt."""
    data: Mapping[str, str] = field(default_factory=dict)
    """Split -> parquet file in the data artifact. Empty: ``dataset``."""
    dataset: str | None = None
    """The hub's dataset that the task names, read from the mirror or the hub's cache."""
    splits: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """What the task reads of it: configuration -> splits."""
    where: Mapping[str, Any] = field(default_factory=dict)
    """Only the documents whose columns have these values."""
    subsample: Subsample | None = None
    """Only a fixed part of them."""
    generation: Mapping[str, Any] = field(default_factory=dict)
    """Replaces the task's ``generation_kwargs`` when given."""
    limit: int | None = None
    """Only the first so many samples."""
    scale: float = 1.0
    """What lmms-eval's numbers are multiplied by, e.g. 100 where tables print percent."""
    parts: str = "mean"
    """How samples add up to the primary metric: one of ``PARTS``."""
    unit: str | None = None
    """Column that names a document's picture, over which intervals are taken; None: the content of
    the picture tells (``eval.units``). ``pairs`` and ``circular`` have units of their own."""
    documents: int | None = None
    """Of the split, for estimates of cost alone."""
    judge: bool = False
    """Scored by a judge model."""
    stop: Sequence[str] | None = None
    """Texts before which an answer ends, as the task's files name them; None: not stated. What is
    stated here and in ``tokens`` is compared with the loaded task, and told with the score."""
    tokens: int | None = None
    """Most new tokens of an answer."""
    llava_1_5: Mapping[str, Any] = field(default_factory=dict)
    """Where LLaVA-1.5's scripts ask otherwise: ``overlay`` and ``prompt``, in the place of that of
    the benchmark and of its protocol, for ``eval.prompts=llava_1_5``."""

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
        _require(
            self.parts in PARTS,
            f"benchmark {self.name}: parts={self.parts!r}; the choices are {', '.join(PARTS)}.",
        )
        _require(
            bool(self.data) != bool(self.dataset),
            f"benchmark {self.name}: expected either data, files of the data artifact, or dataset, "
            "a name on the hub.",
        )
        _require(
            bool(self.splits) == bool(self.dataset),
            f"benchmark {self.name}: expected splits, e.g. {{default: [test]}}, with a dataset and "
            "not without one.",
        )
        _require(
            not self.llava_1_5 or set(self.llava_1_5) == {"overlay", "prompt"},
            f"benchmark {self.name}: llava_1_5={dict(self.llava_1_5)}; expected overlay, a YAML "
            "below eval/tasks, and prompt, what the protocol says of it.",
        )

    @property
    def overlay_path(self) -> Path | None:
        """The YAML that changes the task."""
        return None if self.overlay is None else TASKS / self.overlay

    @property
    def tasks_path(self) -> Path | None:
        """The folder with the task's YAML, None for lmms-eval's own tasks."""
        return None if self.tasks_dir is None else TASKS / self.tasks_dir

    @property
    def asked(self) -> int | None:
        """Documents that are asked, as far as known."""
        bounds = (self.documents, self.limit, self.subsample.count if self.subsample else None)
        return min((bound for bound in bounds if bound is not None), default=None)

    @property
    def stated(self) -> dict[str, Any]:
        """Stop texts and token limit that the protocol states, those of ``generation`` included."""
        found = {"stop": self.stop, "tokens": self.tokens}
        if self.generation and (self.stop is not None or self.tokens is not None):
            until = self.generation.get("until") or []
            found["stop"] = [until] if isinstance(until, str) else list(until)
            found["tokens"] = self.generation.get("max_new_tokens")
        return {name: value for name, value in found.items() if value is not None}

    @property
    def _names_stop(self) -> bool:
        """Whether the own task or ``generation`` says where answers stop, be it nowhere."""
        assert self.tasks_path is not None
        written = taskfile.settings(self.tasks_path / f"{self.task}.yaml")
        return "until" in (self.generation or written.get("generation_kwargs") or {})

    def asked_as(self, prompts: str) -> Benchmark:
        """The benchmark with the prompt of this choice, one of ``PROMPTS``."""
        if prompts == "lmms_eval" or not self.llava_1_5:
            return self
        protocol = {**self.protocol, "prompt": self.llava_1_5["prompt"]}
        return replace(self, overlay=self.llava_1_5["overlay"], protocol=protocol, llava_1_5={})

    @property
    def protocol_text(self) -> str:
        """The protocol as one line, the number of samples included when it is limited."""
        told: dict[str, Any] = {**self.protocol, **self.stated}
        if "stop" in told:
            told["stop"] = " or ".join(map(repr, told["stop"])) or "none"
        if self.subsample:
            told["subsample"] = f"{self.subsample.count}, seed {self.subsample.seed}"
        if self.limit is not None:
            told["limit"] = self.limit
        return "; ".join(f"{key}={value}" for key, value in told.items())

    def answer_config(self) -> dict[str, Any]:
        """Everything that changes the result. ``chance`` and ``range`` only change its reading.

        Fields at their defaults are left out, so that a new one renames no old result.
        """
        task_files = _digest(self.tasks_path, self.task) if self.tasks_path else None
        more = {
            "overlay": _digest_file(self.overlay_path) if self.overlay_path else None,
            "dataset": self.dataset,
            "where": dict(self.where),
            "subsample": asdict(self.subsample) if self.subsample else None,
            "scale": None if self.scale == 1.0 else self.scale,
            "parts": None if self.parts == "mean" else self.parts,
            "decoding": self.stated,
            "stop": "none" if self.tasks_path and not self._names_stop else None,
        }
        return {
            **{name: value for name, value in more.items() if value},
            "benchmark": self.name,
            "task": self.task,
            "task_files": task_files,
            "metrics": dict(self.metrics),
            "primary": self.primary,
            "protocol": dict(self.protocol),
            "data": dict(self.data),
            "generation": dict(self.generation),
            "limit": self.limit,
        }


@dataclass(frozen=True)
class Suite:
    """Benchmarks measured together, with which precision, data and judge, and how fast."""

    name: str
    benchmarks: Mapping[str, Benchmark]
    prompts: str = "lmms_eval"
    """Who asks the questions: one of ``PROMPTS``."""
    dtype: str = "float32"
    """Precision of the model. It can change answers, so it is part of the key."""
    mirror: str | None = None
    """Folder with datasets as the hub holds them: ``<mirror>/lmms-lab-encoder/<Name>``."""
    judge: Judge = field(default_factory=Judge)
    """Who scores the benchmarks that need a judge model."""
    batch_size: int = 16
    """Part of the protocol in half precision, where sums depend on it; else only speed."""
    processes: int | str = "auto"
    """Ranks that share the documents; ``auto``: one per GPU."""
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
            self.prompts in PROMPTS,
            f"eval.prompts={self.prompts!r}; the choices are {', '.join(PROMPTS)}.",
        )
        _require(
            type(self.batch_size) is int and self.batch_size >= 1,
            f"eval.batch_size={self.batch_size!r}; expected an int >= 1.",
        )
        _require(
            self.processes == "auto" or (type(self.processes) is int and self.processes >= 1),
            f"eval.processes={self.processes!r}; expected auto or an int >= 1.",
        )

    @property
    def mirror_path(self) -> Path | None:
        """The mirror, absolute."""
        return None if self.mirror is None else Path(self.mirror).expanduser().absolute()

    @property
    def asked(self) -> list[Benchmark]:
        """The benchmarks with the prompts that were chosen."""
        return [benchmark.asked_as(self.prompts) for benchmark in self.benchmarks.values()]

    def requirements(self) -> list[Requirement]:
        """Each dataset, on this machine; the judge, without which its benchmarks are left out."""
        wanted: dict[str, list[Benchmark]] = {}
        for benchmark in self.benchmarks.values():
            if benchmark.dataset and not self.left_out(benchmark):
                wanted.setdefault(benchmark.dataset, []).append(benchmark)
        found = [
            mirror.requirement(
                dataset, _union([b.splits for b in each]), [b.name for b in each], self.mirror_path
            )
            for dataset, each in wanted.items()
        ]
        judged = [b.name for b in self.benchmarks.values() if b.judge]
        return [*found, *([self.judge.requirement(judged)] if judged else [])]

    def left_out(self, benchmark: Benchmark) -> str:
        """Why ``benchmark`` is not measured; empty when it is."""
        return self.judge.absent() if benchmark.judge else ""

    def protocol_text(self, benchmark: Benchmark) -> str:
        """The benchmark's protocol with what the suite adds to it: batch and judge."""
        told = [benchmark.protocol_text, *(f"{k}={v}" for k, v in self._adds(benchmark).items())]
        return "; ".join(filter(None, told))

    def answer_config(self, benchmark: Benchmark) -> dict[str, Any]:
        """What of the suite and the benchmark changes the result."""
        adds: dict[str, Any] = dict(self._adds(benchmark))
        if benchmark.dataset:
            place = mirror.find(benchmark.dataset, benchmark.splits, self.mirror_path)
            adds["content"] = mirror.content(place) if place else None
        if why := self.left_out(benchmark):
            adds["left_out"] = why
        return {**benchmark.answer_config(), "dtype": self.dtype, **adds}

    def _adds(self, benchmark: Benchmark) -> dict[str, Any]:
        batch = {} if self.dtype == "float32" else {"batch": self.batch_size}
        asked = benchmark.judge and not self.left_out(benchmark)
        return {**batch, **({"judge": f"{self.judge.model}@{self.judge.host}"} if asked else {})}


def _union(several: Sequence[Mapping[str, Sequence[str]]]) -> dict[str, list[str]]:
    """All configurations with all their splits, each once."""
    found: dict[str, dict[str, None]] = {}
    for splits in several:
        for config, names in splits.items():
            found.setdefault(config, {}).update(dict.fromkeys(names))
    return {config: list(names) for config, names in found.items()}


def _digest_file(path: Path) -> str:
    """Hash over an overlay, what it includes, and the code beside it."""
    files = [*taskfile.files(path), *sorted(path.parent.glob("*.py"))]
    return hashlib.sha256(b"\0".join(p.read_bytes() for p in files)).hexdigest()[:16]


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
