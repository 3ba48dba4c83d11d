"""What the core asks of stages that it does not import, and what plug-ins may have besides.

Each group of the configuration has a protocol that its plug-ins fulfil: those of data, models and
methods stand in :mod:`coincide.schema`, those of the recipe and the suite here. What a plug-in may
have beyond it (``Has...``) is looked for with ``isinstance``; one that has no use for it leaves it
out.
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
    from coincide.schema import DataSource, Difficulty, ModelSource, Pool
    from coincide.store import Step, Store


# --- what a run needs -------------------------------------------------------------------------


@dataclass(frozen=True)
class Requirement:
    """One thing that a run needs and cannot make: a file, weights, a key, memory, a network.

    Made by looking only: no download, no hashing, no import of torch. A run checks what its parts
    require before hours are spent; ``python -m coincide.doctor`` prints it.
    """

    name: str
    """What it is, e.g. ``images gqa`` or ``weights lmsys/vicuna-7b-v1.5``."""
    met: bool
    found: str
    """What was seen: a path and its size, a version, a reason."""
    remedy: str = ""
    """What to do where it is not met: a command or a setting."""
    bytes: int = 0
    """What has to be fetched for it, as far as known."""
    fetch: Callable[[], None] | None = None
    """Fetches it, resuming where a former try broke off; None where only the user can."""
    fatal: bool = True
    """False: the run goes on without it (a judge benchmark is left out), and says so."""


# --- recipe and suite -------------------------------------------------------------------------


class FinetuningRecipe(Protocol):
    """A finetuning recipe of ``conf/train``."""

    @property
    def max_length(self) -> int:
        """Longest sequence in tokens that is trained on."""
        ...

    @property
    def processes(self) -> int | str:
        """Processes on each machine; ``auto``: one per GPU."""
        ...

    @property
    def nodes(self) -> int:
        """Machines that train together."""
        ...

    def answer_config(self) -> Mapping[str, Any]:
        """The fields that change the adapter, for its key."""
        ...


class SizedBenchmark(Protocol):
    """A benchmark of a suite."""

    @property
    def asked(self) -> int | None:
        """Documents that are asked; None: not known."""
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
    """An estimate and what it rests on."""

    @property
    def hours(self) -> float:
        """Over all GPUs together."""
        ...

    @property
    def basis(self) -> str: ...


class TrainStage(Protocol):
    """What ``train`` does for an experiment: ``train.interface``. A ``recipe`` is of the class that
    it knows, one of ``conf/train``.
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
        """The adapter got by finetuning ``base``, the artifact of ``model``, on ``subset``."""
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
        """Self-Filter's stage 1: the difficulty of every row."""
        ...

    def estimate_gpu_hours(
        self, recipe: Any, rows: int, parameters: int, tokens_per_row: float, device: str
    ) -> HoursEstimate:
        """What finetuning ``parameters`` on ``rows`` costs on ``device``, a GPU's name."""
        ...

    def requirements(
        self, recipe: Any, *, parameters: int | None, folder: Path | None
    ) -> Sequence[Requirement]:
        """What a finetuning needs of this machine before it is queued."""
        ...

    def trainable(self, model: Any) -> Sequence[Requirement]:
        """What finetuning needs of the parts of ``model``."""
        ...

    def resumable(self, store: Store, step: Step, recipe: Any) -> Requirement | None:
        """Whether this layout can go on from the checkpoint that a stopped finetuning left."""
        ...


class EvalStage(Protocol):
    """What ``eval`` does for an experiment: ``eval.stage``. A ``suite`` is of the class that it
    knows, one of ``conf/eval``.
    """

    def eval_steps(
        self, suite: Any, *, model: ModelSource, base: Step, adapter: Step | None, data: Step
    ) -> list[Step]:
        """One step for each benchmark of the suite."""
        ...

    def evaluate(self, store: Store, steps: Sequence[Step]) -> object:
        """Build ``steps``, all of one suite."""
        ...

    def examine(self, store: Store, steps: Sequence[Step]) -> None:
        """Try documents of the benchmarks without the model, before training. Raises UserError."""
        ...


# --- what plug-ins may have besides -----------------------------------------------------------


@runtime_checkable
class HasRequirements(Protocol):
    """A part that needs something it cannot make: files, weights, keys, a network."""

    def requirements(self) -> Sequence[Requirement]: ...


@runtime_checkable
class HasScale(Protocol):
    """A part that says how large it is, for estimates of cost (``coincide.checks.estimate``)."""

    @property
    def scale(self) -> Mapping[str, Any]: ...


@runtime_checkable
class HasDtype(Protocol):
    """A model that says in which precision a feature pass runs it."""

    @property
    def dtype(self) -> str:
        """A torch name; empty: not said."""
        ...


@runtime_checkable
class HasCheckpoint(Protocol):
    """A model that is one published checkpoint as it is."""

    @property
    def checkpoint(self) -> PretrainedCheckpoint: ...


@runtime_checkable
class HasPolicies(Protocol):
    """A dataset that lets the user choose what becomes of faulty rows."""

    @property
    def policies(self) -> Policies: ...


@runtime_checkable
class HasScore(Protocol):
    """A method that ranks examples by scores, which are an artifact whatever the budget."""

    def score(self, pool: Pool, seed: int) -> Mapping[str, np.ndarray]:
        """``score`` float32 [N], what it ranks by (NaN: not judged), and what else is worth keeping
        by row.
        """
        ...

    def score_config(self, seed: int) -> Mapping[str, Any]:
        """What the scores depend on besides the method's needs, for their key."""
        ...


@runtime_checkable
class HasKeyConfig(Protocol):
    """A method whose fields do not settle its answer, or not all of them change it."""

    def key_config(self) -> Mapping[str, Any]:
        """What goes into the key in place of the fields."""
        ...


@runtime_checkable
class HasLabel(Protocol):
    """A method with variants that tables tell apart."""

    @property
    def label(self) -> str:
        """What tables write behind its name."""
        ...


def scale_of(part: object) -> Mapping[str, Any]:
    """The sizes that ``part`` states; none where it states none."""
    return part.scale or {} if isinstance(part, HasScale) else {}


def requirements_of(part: object) -> Sequence[Requirement]:
    """What ``part`` needs; nothing for parts that make all that they need."""
    return part.requirements() if isinstance(part, HasRequirements) else ()
