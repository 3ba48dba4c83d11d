"""The records that stages exchange, and the protocols that plug-ins fulfil.

Everything here is frozen and free of heavy imports, so that a plan can be printed without torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from coincide.errors import HealthError as HealthError
from coincide.errors import UserError as UserError

if TYPE_CHECKING:
    import numpy as np

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
    """False: an answer that is read as context and not learnt; the data marked it so."""


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
        """The data artifact. Cheap to make: no example is built or decoded here."""
        ...

    def size(self) -> int:
        """Rows of the dataset, dropped ones included, as cheap as ``step``: a fraction of them is
        what a budget asks for."""
        ...

    def open(self, artifact: Path) -> Dataset: ...


class ModelSource(Protocol):
    """A base model of ``conf/reference`` or ``conf/target``: an artifact with a loadable folder.

    The artifact holds ``model/``: ``config.json``, ``model.safetensors``, tokenizer and
    processor, loadable by ``from_pretrained``.
    """

    @property
    def name(self) -> str: ...
    @property
    def template(self) -> str:
        """Name of the conversation template (``coincide.models.template``)."""
        ...

    @property
    def max_length(self) -> int:
        """Longest sequence in tokens, image tokens included; longer ones are cut on the right."""
        ...

    def step(self) -> Step: ...


class ClipSource(Protocol):
    """A CLIP model of ``conf/clip``: ``model/`` loads as CLIPModel and CLIPProcessor."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str:
        """Precision of the CLIP pass, a torch name."""
        ...

    def step(self) -> Step: ...


# --- what methods ask for ---------------------------------------------------------------------


class SignalModel(Protocol):
    """A model that signals come from: a part of the configuration, an artifact with ``model/``."""

    @property
    def name(self) -> str: ...
    def step(self) -> Step: ...


@dataclass(frozen=True)
class Signal:
    """A quantity per example, read off a model's pass over the data; an array [N, D] by row.

    Each kind of signal is a subclass in a file of its own (``coincide.features.signals``): a frozen
    dataclass whose fields are its parameters. Its base class says which model it comes from and how
    its values are read (``coincide.features.passes``).
    """

    name: ClassVar[str]
    """In the key and in the artifact's folder."""
    dtype: ClassVar[str]
    """Of the stored values: float16 or float32."""
    model: ClassVar[str]
    """Group of the configuration that holds the model: ``reference``, ``clip``, ..."""
    nan_allowed: ClassVar[bool] = False
    """Whether NaN stands for "has no value"; else a NaN stops the pass and names the row."""

    @property
    def label(self) -> str:
        """For the name of the artifact."""
        return self.name

    def params(self) -> dict[str, Any]:
        """What tells it from others of its kind, as JSON; goes into the key."""
        return dict(vars(self))

    def width(self, hidden: int) -> int:
        """Columns D, for a model whose states or embeddings have ``hidden`` columns."""
        return hidden

    @classmethod
    def make_pass(cls, model: Any, source: DataSource, options: Any) -> Any:
        """The pass (``coincide.features.engine.contract.SignalPass``) of ``model`` over ``source``
        that yields signals of this kind; ``options`` is a ``coincide.config.FeaturePass``."""
        raise TypeError(f"{cls.__name__} names no model that its values come from")


@dataclass(frozen=True)
class Clustering:
    """Spherical k-means of a signal, shared by every method that asks for the same one."""

    signal: Signal
    clusters: int
    iterations: int = 50
    seed: int = 1234


@dataclass(frozen=True)
class Difficulty:
    """Self-Filter's stage 1: difficulty -S(f), S a linear net on f, the joined ``signals``.

    S is trained together with the target model, by ``train.self_filter``.
    """

    signals: tuple[Signal, ...]
    epochs: int = 1
    batch: int = 16
    lr: float = 2e-5
    seed: int = 1234


@dataclass(frozen=True)
class Targets:
    """``signal`` of the target rows: of another dataset, ``targets=...``, that the method looks at.

    They go through the same model as the pool's rows.
    """

    signal: Signal


Need = Signal | Clustering | Difficulty | Targets


def signals_of(need: Need) -> tuple[Signal, ...]:
    """The signals of the pool's rows that have to be there before ``need`` can be met."""
    if isinstance(need, Signal):
        return (need,)
    if isinstance(need, Clustering):
        return (need.signal,)
    return need.signals if isinstance(need, Difficulty) else ()


@dataclass(frozen=True)
class TargetRows:
    """Target rows and their signal. ``example.source`` names the task that a row belongs to."""

    examples: Sequence[Example]
    values: np.ndarray
    """[M, D], by target row."""
    usable: np.ndarray
    """bool [M]: False for dropped rows and those whose signal is invalid."""


@dataclass(frozen=True)
class Clusters:
    """``centroids`` float32 [K, D] of unit norm, ``assignment`` int32 [N] (-1: row not usable)."""

    centroids: np.ndarray
    assignment: np.ndarray


class Pool(Protocol):
    """What a method sees: examples and the needs it declared, as arrays by row index."""

    @property
    def examples(self) -> Sequence[Example]: ...
    @property
    def usable(self) -> np.ndarray:
        """bool [N]: False for dropped rows and rows whose needed signals are invalid."""
        ...

    def signal(self, signal: Signal) -> np.ndarray: ...
    def clusters(self, clustering: Clustering) -> Clusters: ...
    def difficulty(self, difficulty: Difficulty) -> np.ndarray:
        """float32 [N], NaN where undefined."""
        ...

    def targets(self, targets: Targets) -> TargetRows: ...
    def scored(self, method: Any, seed: int) -> Mapping[str, np.ndarray]:
        """What ``method.score`` gave, from its artifact."""
        ...


@dataclass(frozen=True)
class Selection:
    """What a method returns: ``rows`` int64 [<= k] in the order chosen, best first.

    ``scores`` float32 [N] when the method has one score per example (NaN where undefined);
    ``ranking`` int64, all candidate rows in the order in which they would be taken next: the
    pipeline tops up from it when ``rows`` falls short of k. ``facts`` goes into the manifest
    (JSON), ``tables`` (name -> column -> values of equal length) beside it as parquet.
    """

    rows: np.ndarray
    scores: np.ndarray | None = None
    ranking: np.ndarray | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, Mapping[str, Sequence[Any]]] = field(default_factory=dict)


class Method(Protocol):
    """A selection method: a frozen dataclass whose fields are its YAML in ``conf/method``.

    ``uses_seed``: the run's seed changes the rows. ``fixed_size``: the method brings its own
    size (``full``, ``from_file``), so the budget does not apply. A method whose fields do not
    settle its answer adds ``key_config() -> dict``, which goes into the key in their place.

    A method that ranks examples adds ``score(pool, seed) -> {"score": float32 [N], ...}`` and
    ``score_config(seed) -> dict`` (what the scores depend on besides its needs); ``select`` then
    finds them under ``pool.scored(self, seed)``, computed once for all budgets.
    """

    @property
    def name(self) -> str: ...
    @property
    def uses_seed(self) -> bool: ...
    @property
    def fixed_size(self) -> bool: ...
    def needs(self) -> Sequence[Need]: ...
    def select(self, pool: Pool, k: int, seed: int) -> Selection: ...


# --- results ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """One number of one benchmark. ``value`` None: missing, and ``why`` says why."""

    benchmark: str
    metric: str
    value: float | None
    n: int
    """Samples behind the value."""
    stderr: float | None = None
    protocol: str = ""
    """Split, prompt, OCR tokens, batch: what must agree before two values are compared."""
    why: str = ""
    samples: str = ""
    """Folder in the store whose ``samples.jsonl`` has the score of each sample."""
    unit: str = ""
    """What ``stderr`` and intervals draw anew, e.g. ``picture``; empty: not recorded."""
    units: int | None = None
    """How many of them the benchmark has; None: not recorded, samples count as independent."""
    asked: str = ""
    """Hash of the documents, prompts and scoring (``coincide.ledger.identity.asked_hash``); empty:
    not recorded. Scores with different hashes are never compared, whatever the protocol says."""
    readable: float | None = None
    """The share of the replies that could be read, 0 to 1; None: not known."""
    lmms_eval: float | None = None
    """What lmms-eval itself computes, where that is another number."""


@dataclass(frozen=True)
class Cost:
    """What one artifact that a result stands on took when it was built."""

    stage: str
    """``reference`` (making the model that features are read from), ``features``, ``select``,
    ``train`` or ``evaluate``."""
    folder: str
    seconds: float
    """Wall-clock. Signals of one pass, and benchmarks of one process, have the same clock."""
    started: float
    """Unix time: what was built together began together, and is charged once."""
    gpus: int = 0
    """GPUs it occupied."""


@dataclass(frozen=True)
class Result:
    """One line of the ledger: one (method, data, budget, target, seed) evaluated on a suite."""

    method: str
    variant: str
    data: str
    reference: str
    target: str
    suite: str
    budget: float
    """The fraction k / N."""
    k: int
    seed: int
    scores: tuple[Score, ...]
    seconds: Mapping[str, float]
    """Wall-clock seconds by stage, as first computed (not of the cache hit)."""
    keys: Mapping[str, str]
    """Artifact folder by kind, e.g. ``subset: store/subset/...``."""
    composition: Mapping[str, int]
    """Rows of the subset by source."""
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    commit: str = ""
    created: str = ""
    costs: tuple[Cost, ...] = ()
    """What each artifact took: what several results name, they share."""
    hardware: Mapping[str, Any] = field(default_factory=dict)
    contents: Mapping[str, str] = field(default_factory=dict)
    """Content keys of what it stands on, by config group (``data``, ``target``, ``reference``,
    ``clip``, ``method``): names may be shared, these are not. Empty: not recorded."""
    aside: tuple[str, ...] = ()
    """Fields of ``config.method`` and ``config.train`` that change no answer, as they declare."""
    lenient: tuple[Score, ...] = ()
    """Scores of a lenient reading of the same replies, under protocols of their own
    (``scoring=lenient``); empty where that is not known."""


@dataclass(frozen=True)
class CommittedResult(Result):
    """A result that ships with the project: never written to the user's ledger."""
