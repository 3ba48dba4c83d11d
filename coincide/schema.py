"""The records that stages exchange, and the protocols that plug-ins fulfil.

Everything here is frozen and free of heavy imports, so that a plan can be printed without torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from coincide.errors import HealthError as HealthError
from coincide.errors import UserError as UserError
from coincide.needs import AdaptedSignal as AdaptedSignal
from coincide.needs import Checkpoint as Checkpoint
from coincide.needs import Clustering as Clustering
from coincide.needs import Difficulty as Difficulty
from coincide.needs import JointDifficulty as JointDifficulty
from coincide.needs import Need as Need
from coincide.needs import Signal as Signal
from coincide.needs import SignalModel as SignalModel
from coincide.needs import SubsetOf as SubsetOf
from coincide.needs import Targets as Targets
from coincide.needs import TunedSignal as TunedSignal
from coincide.needs import WarmUp as WarmUp
from coincide.needs import signals_of as signals_of

if TYPE_CHECKING:
    import numpy as np

    from coincide.models.processor import ProcessorFiles
    from coincide.store import Step

Role = Literal["human", "gpt"]
STAGES = ("features", "select", "train", "evaluate", "report")


# --- data -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation. ``text`` may hold the literal ``<image>`` placeholder."""

    role: Role
    text: str
    learn: bool = True
    """False: an answer that is context only and not learnt, because the data marks it so."""


@dataclass(frozen=True, slots=True)
class Example:
    """One training example. ``row`` is its index in the annotation file and its only key."""

    row: int
    id: str
    images: tuple[str, ...]
    """Paths relative to the image root; empty for text-only examples."""
    turns: tuple[Turn, ...]
    source: str
    """Which part of the mixture it belongs to, e.g. ``gqa`` or ``ocr_vqa``."""


@dataclass(frozen=True)
class Dataset:
    """Examples in file order (``examples[i].row == i``) with the folder their images lie in."""

    name: str
    annotations: Path
    image_root: Path
    examples: Sequence[Example]
    dropped: Mapping[int, str] = field(default_factory=dict)
    """Rows that a policy removed from the pool, with the reason. Never selected."""
    blank_images: frozenset[int] = frozenset()
    """Rows whose missing or unreadable image is replaced by a blank one (policy ``blank``)."""

    def __len__(self) -> int:
        return len(self.examples)


class DataSource(Protocol):
    """A dataset of ``conf/data``: one dataclass whose fields are the YAML."""

    @property
    def name(self) -> str: ...
    def step(self) -> Step:
        """The step of the data artifact. Cheap: no example is read here."""
        ...

    def size(self) -> int:
        """Number of rows, dropped ones included, as cheap as ``step``.

        A fractional budget refers to it.
        """
        ...

    def open(self, artifact: Path) -> Dataset: ...


@runtime_checkable
class ModelSource(Protocol):
    """A base model of ``conf/reference`` or ``conf/target``.

    Its artifact holds ``model/``: ``config.json``, ``model.safetensors``, tokenizer and processor,
    loadable with ``from_pretrained``.
    """

    @property
    def name(self) -> str: ...
    @property
    def template(self) -> str:
        """Name of the conversation template (``coincide.models.template``)."""
        ...

    @property
    def max_length(self) -> int:
        """Maximum sequence length in tokens, image tokens included.

        Longer ones are truncated on the right.
        """
        ...

    def step(self) -> Step: ...
    def processor(self) -> ProcessorFiles:
        """Its processor, which needs no weights. Made by looking only."""
        ...


class EncoderSource(Protocol):
    """A model that embeds pictures or texts: a CLIP of ``conf/clip`` (its ``model/`` loads as
    CLIPModel and CLIPProcessor), a vision tower of ``conf/vision`` or a text encoder of
    ``conf/sentence``, of any class of transformers.
    """

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str:
        """Precision of its pass, a torch name."""
        ...

    def step(self) -> Step: ...


# --- what a method sees ---------------------------------------------------------------------


@dataclass(frozen=True)
class TargetRows:
    """Target rows with their signal. ``example.source`` is the task that a row belongs to."""

    examples: Sequence[Example]
    values: np.ndarray
    """[M, D], one row for each of the M target rows."""
    usable: np.ndarray
    """bool [M]: False for dropped rows and rows without a valid signal."""


@dataclass(frozen=True)
class Clusters:
    """``centroids`` float32 [K, D] of unit norm, ``assignment`` int32 [N] (-1: row not usable)."""

    centroids: np.ndarray
    assignment: np.ndarray


class Pool(Protocol):
    """What a method sees: the N examples, and the needs that it declared as arrays by row index."""

    @property
    def examples(self) -> Sequence[Example]: ...
    @property
    def usable(self) -> np.ndarray:
        """bool [N]: False for dropped rows and rows without a valid value of a needed signal."""
        ...

    def signal(self, signal: Signal) -> np.ndarray: ...
    def clusters(self, clustering: Clustering) -> Clusters: ...
    def difficulty(self, difficulty: Difficulty) -> np.ndarray:
        """float32 [N], NaN where undefined."""
        ...

    def targets(self, targets: Targets) -> TargetRows: ...
    def subset(self, subset: SubsetOf) -> np.ndarray:
        """Its rows, int64, ascending."""
        ...

    def tuned(self, tuned: TunedSignal) -> np.ndarray:
        """[N, D], NaN for rows outside the subset and those without a value."""
        ...

    def warmup(self, warmup: WarmUp) -> Sequence[Checkpoint]:
        """Its adapters, in the order of ``at``."""
        ...

    def scored(self, method: Any, seed: int) -> Mapping[str, np.ndarray]:
        """The arrays that ``method.score`` returned, read from the scores artifact."""
        ...


@dataclass(frozen=True)
class Selection:
    """What a method returns.

    ``rows``: int64 [<= k], in the order chosen, best first. ``scores``: float32 [N], if the method
    has one score per example (NaN where undefined). ``ranking``: int64, all candidate rows in the
    order in which they would be taken; the pipeline fills up from it when ``rows`` has fewer than
    k. ``facts`` go into the manifest (JSON), ``tables`` (name -> column -> values of equal length)
    become parquet files.
    """

    rows: np.ndarray
    scores: np.ndarray | None = None
    ranking: np.ndarray | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, Mapping[str, Sequence[Any]]] = field(default_factory=dict)


class Method(Protocol):
    """A selection method: a frozen dataclass whose fields are its YAML in ``conf/method``.

    ``uses_seed``: whether the run's seed changes the rows. ``fixed_size``: the method has a size of
    its own (``full``, ``from_file``), so the budget does not apply. If the fields do not determine
    the result, the method adds ``key_config() -> dict``, which goes into the key instead of them.
    ``version: ClassVar[int]``, if it has one, is raised when its code changes the rows.

    A method that ranks examples adds ``score(pool, seed) -> {"score": float32 [N], ...}`` and
    ``score_config(seed) -> dict`` (what the scores depend on besides the needs). They are computed
    once for all budgets; ``select`` gets them from ``pool.scored(self, seed)``.
    """

    @property
    def name(self) -> str: ...
    @property
    def uses_seed(self) -> bool: ...
    @property
    def fixed_size(self) -> bool: ...
    def needs(self) -> Sequence[Need]: ...
    def select(self, pool: Pool, k: int, seed: int) -> Selection: ...
