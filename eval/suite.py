"""Benchmarks and suites: a benchmark is one YAML of ``conf/benchmark``, a suite one of
``conf/eval``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from coincide.protocols import Requirement
from coincide.schema import UserError
from coincide.system.files import normalise_numbers
from eval import mirror, taskfile
from eval.judge import Judge
from eval.sample import Subsample

TASKS = Path(__file__).resolve().parent / "tasks"
DTYPES = ("float32", "bfloat16", "float16")
PROMPTS = ("lmms_eval", "llava_1_5")
"""Whose prompts: those of lmms-eval's tasks, or those of LLaVA-1.5's scripts where they differ."""
SWITCHES = ("do_sample", "use_cache", "early_stopping")
"""Generation settings that are true or false."""
ENGINES = ("prefix", "plain")
"""How answers are computed: what questions about one picture begin with once, and the questions
behind it together; or each prompt whole, in plain batches."""
PARTS = ("mean", "judged", "letters", "f1", "pairs", "circular", "mmmu", "preference")
"""How samples add up to the primary metric: names of functions of ``eval.parts``."""


@dataclass(frozen=True)
class Benchmark:
    """One lmms-eval task, the metrics taken from it, and their protocol."""

    name: str
    """Name in tables."""
    task: str
    """lmms-eval's name of the task."""
    metrics: Mapping[str, str]
    """Our name of a metric -> lmms-eval's, e.g. ``accuracy: exact_match``. lmms-eval's may be
    followed by a filter: ``exact_match,flexible-extract``; without one the filter is ``none``."""
    primary: str
    """The metric (our name) that represents the benchmark in Rel. (%)."""
    protocol: Mapping[str, Any]
    """Split, prompt, OCR tokens, scoring: must agree before two scores are compared."""
    chance: float = 0.0
    """Primary metric of random guessing among the answers that a question itself offers (yes and
    no, the letters), on the metric's scale; 0 if none are offered."""
    range: Sequence[float] = (0.0, 1.0)
    """Lowest and highest possible value of the primary metric."""
    tasks_dir: str | None = None
    """Folder with the task's YAML: absolute, or below ``eval/tasks``. None: a task of lmms-eval."""
    overlay: str | None = None
    """YAML below ``eval/tasks`` whose keys replace those of the task, e.g. another prompt."""
    data: Mapping[str, str] = field(default_factory=dict)
    """Split -> parquet file in the data artifact. Empty: the documents come from ``dataset``."""
    dataset: str | None = None
    """The task's dataset on the hub, read from the mirror or from the hub's cache."""
    splits: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """What the task reads of ``dataset``: configuration -> splits."""
    where: Mapping[str, Any] = field(default_factory=dict)
    """Only documents whose columns have these values."""
    subsample: Subsample | None = None
    """Only a fixed subsample of the documents."""
    generation: Mapping[str, Any] = field(default_factory=dict)
    """Replaces the task's ``generation_kwargs`` when given."""
    limit: int | None = None
    """Only the first ``limit`` samples."""
    scale: float = 1.0
    """Factor for lmms-eval's numbers, e.g. 100 if tables print percent."""
    parts: str = "mean"
    """How samples add up to the primary metric: one of ``PARTS``."""
    unit: str | None = None
    """Column that identifies a document's picture, the unit of resampling for intervals; None: the
    picture's content (``eval.units``). ``pairs`` and ``circular`` have units of their own."""
    documents: int | None = None
    """Number of documents in the split, only for cost estimates."""
    pictures: int | None = None
    """Number of different pictures that they show, only for cost estimates; None: not known."""
    judge: bool = False
    """Whether it is scored by a judge model."""
    stop: Sequence[str] | None = None
    """Texts before which an answer ends; None: not stated. This and ``tokens`` are compared with
    the loaded task and recorded in the protocol."""
    tokens: int | None = None
    """Most new tokens of an answer."""
    llava_1_5: Mapping[str, Any] = field(default_factory=dict)
    """Where LLaVA-1.5's scripts ask differently: ``overlay`` and ``prompt`` that replace those of
    the benchmark and its protocol for ``eval.prompts=llava_1_5``."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "generation", _settings(self.generation))
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
        """Path of ``overlay``; None without one."""
        return None if self.overlay is None else TASKS / self.overlay

    @property
    def tasks_path(self) -> Path | None:
        """Path of ``tasks_dir``; None for lmms-eval's own tasks."""
        return None if self.tasks_dir is None else TASKS / self.tasks_dir

    @property
    def asked(self) -> int | None:
        """Number of documents that are asked, as far as known."""
        bounds = (self.documents, self.limit, self.subsample.count if self.subsample else None)
        return min((bound for bound in bounds if bound is not None), default=None)

    @property
    def shown(self) -> int | None:
        """About how many different pictures the asked documents show; None where that is not known:
        at worst each its own.
        """
        if self.pictures is None or self.documents is None or self.asked is None:
            return None
        return min(self.pictures, self.asked) if self.asked < self.documents else self.pictures

    @property
    def stated(self) -> dict[str, Any]:
        """Stop texts and token limit that the protocol states, including those in
        ``generation``.
        """
        found = {"stop": self.stop, "tokens": self.tokens}
        if self.generation and (self.stop is not None or self.tokens is not None):
            until = self.generation.get("until") or []
            found["stop"] = [until] if isinstance(until, str) else list(until)
            found["tokens"] = self.generation.get("max_new_tokens")
        return {name: value for name, value in found.items() if value is not None}

    @property
    def _names_stop(self) -> bool:
        """Whether the own task or ``generation`` says where answers stop (possibly nowhere)."""
        assert self.tasks_path is not None
        written = taskfile.settings(self.tasks_path / f"{self.task}.yaml")
        return "until" in (self.generation or written.get("generation_kwargs") or {})

    def asked_as(self, prompts: str) -> Benchmark:
        """The benchmark with the prompt of ``prompts``, one of ``PROMPTS``."""
        if prompts == "lmms_eval" or not self.llava_1_5:
            return self
        protocol = {**self.protocol, "prompt": self.llava_1_5["prompt"]}
        return replace(self, overlay=self.llava_1_5["overlay"], protocol=protocol, llava_1_5={})

    @property
    def protocol_text(self) -> str:
        """The protocol as one line, with the number of samples if it is limited."""
        told: dict[str, Any] = {**self.protocol, **self.stated}
        if "stop" in told:
            told["stop"] = " or ".join(map(repr, told["stop"])) or "none"
        if self.subsample:
            told["subsample"] = f"{self.subsample.count}, seed {self.subsample.seed}"
        if self.limit is not None:
            told["limit"] = self.limit
        return "; ".join(f"{key}={value}" for key, value in told.items())

    def answer_config(self) -> dict[str, Any]:
        """Everything that changes the result, for the key; ``chance`` and ``range`` do not.

        Fields at their defaults are left out, so that a new field does not change the key of old
        results.
        """
        task_files = taskfile.digest_folder(self.tasks_path, self.task) if self.tasks_path else None
        more = {
            "overlay": taskfile.digest(self.overlay_path) if self.overlay_path else None,
            "dataset": self.dataset,
            "where": dict(self.where),
            "subsample": asdict(self.subsample) if self.subsample else None,
            "scale": None if self.scale == 1.0 else self.scale,
            "parts": None if self.parts == "mean" else self.parts,
            "decoding": self.stated,
            "stop": "none" if self.tasks_path and not self._names_stop else None,
        }
        found = {
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
        return dict(normalise_numbers(found))


@dataclass(frozen=True)
class Suite:
    """Benchmarks that are measured together, with precision, prompts, judge and speed settings."""

    name: str
    benchmarks: Mapping[str, Benchmark]
    prompts: str = "lmms_eval"
    """Whose prompts are used: one of ``PROMPTS``."""
    dtype: str = "float32"
    """Precision of the model. It can change answers, so it is part of the key."""
    mirror: str | None = None
    """Folder with datasets as on the hub: ``<mirror>/lmms-lab-encoder/<Name>``."""
    judge: Judge = field(default_factory=Judge)
    """The judge model that scores benchmarks which need one."""
    engine: str = "prefix"
    """One of ``ENGINES``. In half precision, where answers can depend on it, part of the protocol;
    else only speed. Models whose states of a prefix cannot be shared are asked as with ``plain``.
    """
    batch_tokens: int = 32768
    """``prefix``: most tokens whose keys and values are held at a time. In half precision part of
    the protocol. When memory runs out it is lowered."""
    batch_size: int = 16
    """``plain``, and models to which ``prefix`` cannot be applied: prompts of a batch. In half
    precision part of the protocol."""
    likelihood: bool = True
    """Record the likelihood of each right answer (``eval.likelihood``), beside the scores."""
    least_signal: float | None = None
    """Benchmarks that tell methods apart by less (``coincide.report.signal``) are no part of Rel.;
    to be set before methods are compared, and the same for all. None: all are."""
    processes: int | str = "auto"
    """Processes that share the documents; ``auto``: one per GPU."""
    device: str = "auto"
    """``auto``: the first GPU, else the CPU."""
    threads: int | None = None
    """CPU threads of the evaluation; None: torch's default."""

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
            self.engine in ENGINES,
            f"eval.engine={self.engine!r}; the choices are {', '.join(ENGINES)}.",
        )
        _require(
            type(self.batch_tokens) is int and self.batch_tokens >= 1,
            f"eval.batch_tokens={self.batch_tokens!r}; expected an int >= 1.",
        )
        _require(
            type(self.batch_size) is int and self.batch_size >= 1,
            f"eval.batch_size={self.batch_size!r}; expected an int >= 1.",
        )
        limit = self.least_signal
        _require(
            limit is None or (type(limit) in (int, float) and 0 <= limit < float("inf")),
            f"eval.least_signal={limit!r}; expected a number >= 0, or null for no limit.",
        )
        _require(
            self.processes == "auto" or (type(self.processes) is int and self.processes >= 1),
            f"eval.processes={self.processes!r}; expected auto or an int >= 1.",
        )

    @property
    def mirror_path(self) -> Path | None:
        """The mirror as an absolute path; None without one."""
        return None if self.mirror is None else Path(self.mirror).expanduser().absolute()

    @property
    def asked(self) -> list[Benchmark]:
        """The benchmarks with the prompts chosen by ``prompts``."""
        return [benchmark.asked_as(self.prompts) for benchmark in self.benchmarks.values()]

    @property
    def picture_runs(self) -> int | None:
        """How often a picture runs over all benchmarks; None: once for each question."""
        known = [(b.shown, b.asked) for b in self.benchmarks.values()]
        if self.engine == "plain" or any(asked is None for _, asked in known):
            return None
        return sum((asked or 0) if shown is None else shown for shown, asked in known)

    def requirements(self) -> list[Requirement]:
        """Each dataset on this machine; and the judge, without which its benchmarks are left
        out.
        """
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
        """Why ``benchmark`` is not measured; empty if it is."""
        return self.judge.absent() if benchmark.judge else ""

    def protocol_text(self, benchmark: Benchmark) -> str:
        """The benchmark's protocol with the suite's additions: engine or batch size, and judge."""
        told = [benchmark.protocol_text, *(f"{k}={v}" for k, v in self._adds(benchmark).items())]
        return "; ".join(filter(None, told))

    def answer_config(self, benchmark: Benchmark) -> dict[str, Any]:
        """Everything of suite and benchmark that changes the result, for the key."""
        adds: dict[str, Any] = dict(self._adds(benchmark))
        if benchmark.dataset:
            place = mirror.find(benchmark.dataset, benchmark.splits, self.mirror_path)
            adds["content"] = mirror.content(place) if place else None
        if why := self.left_out(benchmark):
            adds["left_out"] = why
        return {**benchmark.answer_config(), "dtype": self.dtype, **adds}

    def _adds(self, benchmark: Benchmark) -> dict[str, Any]:
        asked = benchmark.judge and not self.left_out(benchmark)
        batch = {} if self.dtype == "float32" else self._computed()
        return {**batch, **({"judge": f"{self.judge.model}@{self.judge.host}"} if asked else {})}

    def _computed(self) -> dict[str, Any]:
        """How answers are computed, where they can depend on it."""
        engine = {} if self.engine == "plain" else {"engine": f"prefix, {self.batch_tokens} tokens"}
        return {**engine, "batch": self.batch_size}


def _settings(generation: Mapping[str, Any]) -> dict[str, Any]:
    """Generation settings in which values that are equal are written alike, whatever they are
    written as: a temperature of ``0``, ``0.0`` or ``false``.
    """
    found = {}
    for name, value in normalise_numbers(generation).items():
        if name in SWITCHES and type(value) is int and value in (0, 1):
            value = bool(value)
        elif name not in SWITCHES and isinstance(value, bool):
            value = int(value)
        found[name] = value
    return found


def _union(several: Sequence[Mapping[str, Sequence[str]]]) -> dict[str, list[str]]:
    """All configurations with all their splits, each once."""
    found: dict[str, dict[str, None]] = {}
    for splits in several:
        for config, names in splits.items():
            found.setdefault(config, {}).update(dict.fromkeys(names))
    return {config: list(names) for config, names in found.items()}


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)
