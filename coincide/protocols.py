"""Protocols between the core and stages that it does not import, and optional ones of plug-ins.

Each group of the configuration has a protocol that its plug-ins fulfil: those of data, models and
methods are in :mod:`coincide.schema`, those of recipe and suite here. What a plug-in may have in
addition (``Has...``) is tested with ``isinstance``; it can be left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np

    from coincide.data.report import Policies
    from coincide.models.weights import PretrainedCheckpoint
    from coincide.schema import DataSource, Difficulty, Example, ModelSource, Pool, WarmUp
    from coincide.store import Step, Store


# --- what a run needs -------------------------------------------------------------------------


@dataclass(frozen=True)
class Requirement:
    """One thing that a run needs and cannot make: a file, weights, a key, memory, a network.

    Checked by looking only: no download, no hashing, no import of torch. A run checks the
    requirements of its parts before it starts; ``python -m coincide.doctor`` prints them.
    """

    name: str
    """What it is, e.g. ``images gqa`` or ``weights lmsys/vicuna-7b-v1.5``."""
    met: bool
    found: str
    """What was found: a path and its size, a version, a reason."""
    remedy: str = ""
    """What to do if it is not met: a command or a setting."""
    bytes: int = 0
    """Size of what has to be fetched, as far as known."""
    fetch: Callable[[], None] | None = None
    """Fetches it, resuming an interrupted download; None if only the user can provide it."""
    fatal: bool = True
    """False: the run goes on without it, e.g. leaves out a benchmark that needs a judge, and says
    so."""


# --- recipe and suite -------------------------------------------------------------------------


class FinetuningRecipe(Protocol):
    """A finetuning recipe of ``conf/train``."""

    @property
    def max_length(self) -> int:
        """Maximum sequence length for training, in tokens."""
        ...

    @property
    def processes(self) -> int | str:
        """Processes on each machine; ``auto``: one per GPU."""
        ...

    @property
    def nodes(self) -> int:
        """Number of machines that train together."""
        ...

    def answer_config(self) -> Mapping[str, Any]:
        """The fields that change the adapter, for its key."""
        ...


class SizedBenchmark(Protocol):
    """A benchmark of a suite."""

    @property
    def asked(self) -> int | None:
        """Number of documents that are asked; None: not known."""
        ...


class EvaluationSuite(Protocol):
    """An evaluation suite of ``conf/eval``."""

    @property
    def name(self) -> str: ...
    @property
    def benchmarks(self) -> Mapping[str, SizedBenchmark]: ...
    @property
    def processes(self) -> int | str:
        """Processes that share the documents; ``auto``: one per GPU."""
        ...


# --- stages -----------------------------------------------------------------------------------


class HoursEstimate(Protocol):
    """An estimate and the numbers that it is computed from."""

    @property
    def hours(self) -> float:
        """GPU hours, summed over all GPUs."""
        ...

    @property
    def basis(self) -> str: ...


class TrainStage(Protocol):
    """What experiments use of ``train`` (``train.interface``).

    A ``recipe`` is an object of ``conf/train``.
    """

    def train_step(
        self,
        recipe: Any,
        *,
        model: ModelSource,
        base: Step,
        source: DataSource,
        data: Step,
        subset: Step,
        seed: int,
    ) -> Step:
        """The step that finetunes ``base``, the artifact of ``model``, on ``subset``."""
        ...

    def warmup_step(
        self,
        need: WarmUp,
        recipe: Any,
        *,
        model: ModelSource,
        base: Step,
        source: DataSource,
        data: Step,
        subset: Step,
        seed: int,
    ) -> Step:
        """The step of a warm-up on ``subset``. Its artifact holds in ``model/`` a folder for each
        adapter, and in its facts ``checkpoints``, the fields of ``Checkpoint``."""
        ...

    def difficulty_step(
        self,
        need: Difficulty,
        signals: Sequence[Step],
        *,
        model: ModelSource,
        base: Step,
        source: DataSource,
        data: Step,
        recipe: Any,
        scan: Step | None,
    ) -> Step:
        """The step of Self-Filter's stage 1, which gives the difficulty of every row."""
        ...

    def estimate_gpu_hours(
        self, recipe: Any, rows: int, parameters: int, tokens_per_row: float, device: str
    ) -> HoursEstimate:
        """GPU hours of finetuning ``parameters`` on ``rows`` examples; ``device`` is a GPU's
        name.
        """
        ...

    def requirements(
        self, recipe: Any, *, parameters: int | None, folder: Path | None
    ) -> Sequence[Requirement]:
        """Requirements of a finetuning on this machine, checked before it is queued."""
        ...

    def trainable(self, model: Any) -> Sequence[Requirement]:
        """Requirements of finetuning on the parts of ``model``."""
        ...

    def resumable(self, store: Store, step: Step, recipe: Any) -> Requirement | None:
        """Whether this layout can resume from the checkpoint of a stopped finetuning."""
        ...


class EvalStage(Protocol):
    """What experiments use of ``eval`` (``eval.stage``).

    A ``suite`` is an object of ``conf/eval``.
    """

    def eval_steps(
        self, suite: Any, *, model: ModelSource, base: Step, adapter: Step | None, data: Step
    ) -> list[Step]:
        """One step for each benchmark of the suite."""
        ...

    def evaluate(self, store: Store, steps: Sequence[Step]) -> object:
        """Build ``steps``, all from one suite."""
        ...

    def examine(self, store: Store, steps: Sequence[Step]) -> None:
        """Before training: try documents of the benchmarks without the model. Raises UserError."""
        ...


# --- what plug-ins may have besides -----------------------------------------------------------


@runtime_checkable
class HasRequirements(Protocol):
    """A part that needs something it cannot make: files, weights, keys, a network."""

    def requirements(self) -> Sequence[Requirement]: ...


@runtime_checkable
class HasScale(Protocol):
    """A part that states its size, for cost estimates (``coincide.checks.estimate``)."""

    @property
    def scale(self) -> Mapping[str, Any]: ...


@runtime_checkable
class HasPictureRuns(Protocol):
    """A suite that knows how often pictures run, where questions about one share it."""

    @property
    def picture_runs(self) -> int | None:
        """None: once for each question."""
        ...


@runtime_checkable
class HasDtype(Protocol):
    """A model that says in which precision a feature pass runs it."""

    @property
    def dtype(self) -> str:
        """A torch name; empty: not said."""
        ...


@runtime_checkable
class HasCheckpoint(Protocol):
    """A model that is a single published checkpoint, unchanged."""

    @property
    def checkpoint(self) -> PretrainedCheckpoint: ...


@runtime_checkable
class HasPolicies(Protocol):
    """A dataset with policies for faulty rows."""

    @property
    def policies(self) -> Policies: ...


@runtime_checkable
class HasScore(Protocol):
    """A method that ranks examples by scores, which are one artifact for all budgets."""

    def score(self, pool: Pool, seed: int) -> Mapping[str, np.ndarray]:
        """``score`` float32 [N], by which it ranks (NaN: no score), and further arrays to be
        kept.
        """
        ...

    def score_config(self, seed: int) -> Mapping[str, Any]:
        """What the scores depend on besides the method's needs, for the key."""
        ...


@runtime_checkable
class HasKeyConfig(Protocol):
    """A method whose result is not determined by exactly its fields."""

    def key_config(self) -> Mapping[str, Any]:
        """What the key contains instead of the fields."""
        ...


@runtime_checkable
class HasDataChecks(Protocol):
    """A method with settings that name something of the data: sources, rows, ids."""

    @property
    def names_data(self) -> bool:
        """Whether one of them is set."""
        ...

    def check_data(self, examples: Sequence[Example]) -> None:
        """Raises UserError, with the choices, where the data do not have it.

        Called as soon as the data are prepared, before anything is computed of them.
        """
        ...


@runtime_checkable
class HasVersion(Protocol):
    """A method that counts the versions of its code which choose other rows."""

    version: int


@runtime_checkable
class HasLabel(Protocol):
    """A method with variants that tables distinguish."""

    @property
    def label(self) -> str:
        """What tables show after its name."""
        ...


def scale_of(part: object) -> Mapping[str, Any]:
    """The sizes that ``part`` states; empty if it states none."""
    return part.scale or {} if isinstance(part, HasScale) else {}


def requirements_of(part: object) -> Sequence[Requirement]:
    """The requirements of ``part``; empty for parts without ``requirements``."""
    return part.requirements() if isinstance(part, HasRequirements) else ()
