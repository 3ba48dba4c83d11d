"""What methods ask for: signals, clusters, rows of other methods, finetunings.

Free of heavy imports. ``coincide.schema`` has these names too, beside the pool that answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from coincide.errors import UserError

if TYPE_CHECKING:
    from coincide.schema import DataSource
    from coincide.store import Step


class SignalModel(Protocol):
    """A model that signals come from: a part of the configuration whose artifact holds
    ``model/``.
    """

    @property
    def name(self) -> str: ...
    def step(self) -> Step: ...


@dataclass(frozen=True)
class Signal:
    """A quantity per example computed from a model's pass over the data: an array [N, D], one row
    each.

    Each kind of signal is a subclass in a file of its own (``coincide.features.signals``): a frozen
    dataclass whose fields are its parameters. Its base class says which model it comes from and how
    its values are computed (``coincide.features.passes``).
    """

    name: ClassVar[str]
    """Part of the key and of the artifact's folder name."""
    dtype: ClassVar[str]
    """dtype of the stored values: float16 or float32."""
    model: ClassVar[str]
    """Name of the model: the config group ``reference``, ``clip``, ..., or one of ``models``."""
    nan_allowed: ClassVar[bool] = False
    """True: NaN means that the example has no value. False: a NaN stops the pass with an error."""
    version: ClassVar[int] = 1
    """To be raised when the code changes the values: artifacts of another version are not used."""

    @property
    def label(self) -> str:
        """Text for the artifact's name."""
        return self.name

    def params(self) -> dict[str, Any]:
        """The parameters that distinguish it from others of its kind, as JSON; part of the key."""
        return dict(vars(self))

    def width(self, hidden: int) -> int:
        """Number of columns D, for a model with hidden (or embedding) size ``hidden``."""
        return hidden

    @classmethod
    def text_tokens(cls, signals: Sequence[Signal], text: float) -> float:
        """Text tokens that one pass for ``signals``, all of this model, reads of a row whose text
        has ``text`` tokens; for cost estimates.
        """
        return text

    @classmethod
    def make_pass(cls, model: Any, source: DataSource, options: Any) -> Any:
        """The pass that computes signals of this kind with ``model`` over ``source``.

        ``options`` is a ``coincide.config.FeaturePass``; returns a
        ``coincide.features.engine.contract.SignalPass``.
        Raises TypeError for a kind that names no model.
        """
        raise TypeError(f"{cls.__name__} names no model that its values come from")


@dataclass(frozen=True)
class Clustering:
    """Spherical k-means of a signal; methods that ask for an equal one share its artifact."""

    signal: Signal
    clusters: int
    iterations: int = 50
    seed: int = 1234


@dataclass(frozen=True)
class Difficulty:
    """Self-Filter's stage 1: difficulty -S(f), with S a linear net on the concatenated ``signals``
    f.

    S is trained together with the target model (``train.self_filter``).
    """

    method: ClassVar[str] = "self_filter"

    signals: tuple[Signal, ...]
    epochs: int = 1
    batch: int = 16
    lr: float = 2e-5
    seed: int = 1234

    @property
    def part(self) -> float:
        """Share of the rows that it is learnt on."""
        return 1.0

    def step_config(self) -> dict[str, Any]:
        """What it depends on besides the signals, for the key."""
        return {name: value for name, value in vars(self).items() if name != "signals"}


@dataclass(frozen=True)
class JointDifficulty(Difficulty):
    """CoIDO's scorer: difficulty -S(f), with S a small net that is trained together with the target
    on ``of_pool`` of the rows, for importance and diversity at once (``train.joint_scorer``); then
    every row has a difficulty.

    f are the ``signals``, image and text embeddings; beside them S reads their cosine, and the
    columns of the file ``scores`` (``coincide.data.score_table``), if there is one.
    """

    method: ClassVar[str] = "coido"

    of_pool: float = 0.2
    clusters: int = 20
    """Of f, over whose mean weights diversity is measured."""
    width: int = 384
    """Of the net's layers."""
    scores: str | None = None
    scores_sha256: str = ""

    @property
    def part(self) -> float:
        return self.of_pool

    def step_config(self) -> dict[str, Any]:
        """All but the place of the table, whose hash counts."""
        return {name: value for name, value in super().step_config().items() if name != "scores"}


@dataclass(frozen=True)
class Targets:
    """``signal`` of the target rows: rows of another dataset (``targets=...``) that the method
    looks at.

    It comes from the same model as that of the pool's rows.
    """

    signal: Signal


@dataclass(frozen=True)
class SubsetOf:
    """The rows that another ``method`` selects for the run's budget of k rows: ``share`` of k, and
    at most ``at_most`` of the pool, but one row at least. A method with a size of its own gives
    that.
    """

    method: Any
    """A :class:`Method`."""
    share: float = 1.0
    at_most: float = 1.0
    seed: int | None = None
    """Of the selection, and of the finetuning where one follows; None: the run's."""
    of_pool: float | None = None
    """So much of the pool, whatever the run's budget is, in place of ``share`` and ``at_most``."""

    def __hash__(self) -> int:
        return hash(repr(self))  # fields of methods may be lists


@dataclass(frozen=True)
class TunedSignal:
    """``signal`` of the rows of ``subset`` alone, read off the target after it was finetuned on
    them by the run's recipe; an :class:`AdaptedSignal` off the target with its own adapter."""

    subset: SubsetOf
    signal: Signal


@dataclass(frozen=True)
class WarmUp:
    """A finetuning of the target on the rows of ``subset`` before anything is selected. Its adapter
    and Adam's moments are kept when stated shares of the pool have passed, and it ends with the
    last of them."""

    subset: SubsetOf
    at: tuple[float, ...]
    """Rows that have passed, as shares of the pool's rows, ascending; a row of a second epoch
    counts again."""
    recipe: tuple[tuple[str, Any], ...] = ()
    """Fields of the run's recipe (``train=...``) that have another value here. The schedule is that
    of the whole finetuning, also where it ends before."""

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip((0.0, *self.at), self.at, strict=False))
        if not self.at or not rising:
            raise UserError(
                f"shares of the pool at which an adapter is kept: got {list(self.at)}; expected "
                "one or more numbers above 0, ascending, e.g. [0.05, 0.1]."
            )


@dataclass(frozen=True)
class Checkpoint:
    """One adapter of a :class:`WarmUp`."""

    share: float
    """What was asked for, of the pool's rows."""
    step: int
    """Optimizer steps that it has seen."""
    rows: int
    """Rows that have passed, those of a second epoch counted again."""
    learning_rate: float
    """Mean over the steps since the checkpoint before."""


@dataclass(frozen=True)
class AdaptedSignal(Signal):
    """A signal of the target with the adapter of a warm-up, at its checkpoint number ``at``."""

    model: ClassVar[str] = "target"
    passes: ClassVar[int] = 1
    """What it costs, in forward passes."""

    adapter: WarmUp
    at: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.at < len(self.adapter.at):
            raise UserError(
                f"{self.name}: at={self.at}, and the warm-up keeps {len(self.adapter.at)} "
                "adapters, counted from 0."
            )

    def params(self) -> dict[str, Any]:
        """All fields but the adapter, whose artifact the signal stands on."""
        return {name: value for name, value in vars(self).items() if name != "adapter"}


Need = Signal | Clustering | Difficulty | Targets | SubsetOf | TunedSignal | WarmUp


def signals_of(need: Need) -> tuple[Signal, ...]:
    """The pool's signals that have to be computed before ``need`` can be."""
    if isinstance(need, Signal):
        return (need,)
    if isinstance(need, Clustering):
        return (need.signal,)
    return need.signals if isinstance(need, Difficulty) else ()


def read_by(need: Need) -> tuple[Signal, ...]:
    """The signals behind ``need``, of the pool's rows, of some of them or of the target rows."""
    return (need.signal,) if isinstance(need, Targets | TunedSignal) else signals_of(need)


def subsets_of(need: Need) -> list[SubsetOf]:
    """The subsets that must be there before ``need`` can be met."""
    found = [need] if isinstance(need, SubsetOf) else []
    found += [need.subset] if isinstance(need, TunedSignal | WarmUp) else []
    return found + [s.adapter.subset for s in read_by(need) if isinstance(s, AdaptedSignal)]
