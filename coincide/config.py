"""The typed root of the configuration: a misspelled key or a wrong type is refused at once.

The groups (``data``, ``method``, ...) are plug-ins: the dataclass that each names with
``_target_`` checks its own fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from coincide.schema import STAGES, UserError

MODEL_GROUPS = ("reference", "clip", "vision", "sentence")
"""Config groups of the models that signals come from. Further ones stand in ``models``, by the name
that their signals have as ``model``."""
COMMAND_NAMES = (
    "run", "doctor", "prefetch", "prepare", "verify", "dashboard_sync", "dashboard_create",
)  # fmt: skip


@dataclass
class Paths:
    """Folders; relative paths are relative to the folder in which the command runs."""

    store: str = "store"
    """Artifacts: everything that can be computed again."""
    ledger: str = "ledger"
    """One JSON per result: small, to be committed or copied between machines."""
    reports: str = "reports"
    """Report pages and tables."""
    data: str = "data"
    """Training sets: annotations and images, a folder each."""
    sweeps: str = "sweeps"
    """Sweeps of several jobs: frozen code and configuration, logs, state of each job."""
    benchmarks: str = "benchmarks"
    """Local mirror of the evaluation sets, for machines without a network."""


@dataclass
class FeaturePass:
    """Speed settings of the feature pass. None changes a value, so none is part of a key."""

    batch_size: int = 64
    """Most rows in a batch."""
    batch_tokens: int = 32768
    """Most tokens in a batch, padding included; on a CPU at most 2,048 (its caches)."""
    share_prefixes: bool = True
    """Whether rows of a shard that show the same picture behind the same text run it once, where
    the model allows it."""
    shard_rows: int = 1024
    """Rows per shard. A killed run loses at most the shard it was computing."""
    device: str = "auto"
    """``auto``: the GPUs, else the CPU; or a torch name."""
    processes: Any = "auto"
    """Workers on this machine, each at a shard of its own; ``auto``: one per GPU, one on a CPU."""
    decode_workers: Any = "auto"
    """Processes that read images ahead of each worker; ``auto``: by the number of cores, 0 on a
    CPU."""
    decode_mb: int = 1500
    """Memory that one of these processes may need, in MB: enough for the largest picture that is
    read (89 million pixels). ``auto`` starts at most as many as fit half of the free memory."""


@dataclass
class HealthLimits:
    """Limits checked before training: the run stops with the figures when one is exceeded."""

    largest_cluster: float = 0.05
    """Largest share of the pool in one cluster."""
    empty_clusters: float = 0.01
    """Largest share of clusters without a row."""
    invalid_rows: float = 0.02
    """Largest share of the rows without a usable signal."""
    lost_rows: float = 0.2
    """Largest share of rows that the data's policies (``on_missing_image``, ``on_corrupt_image``,
    ``on_bad_row``) may drop; checked before the feature pass."""


@dataclass
class Root:
    """The configuration of ``python run.py``."""

    data: Any = None
    method: Any = None
    reference: Any = None
    clip: Any = None
    vision: Any = None
    """The vision tower that embeddings of pictures come from."""
    sentence: Any = None
    """The text encoder that embeddings of sentences come from."""
    models: dict[str, Any] = field(default_factory=dict)
    """Name -> further model that signals come from."""
    targets: Any = None
    """Rows of another dataset, for methods that look at targets; null: none."""
    target: Any = None
    train: Any = None
    eval: Any = None
    logger: Any = None
    launcher: Any = None
    """How runs get done: ``local``, ``processes``, ``slurm``."""
    budget: Any = 0.2
    """A fraction in (0, 1] when a float, a count of examples when an int."""
    seed: int = 0
    """Seeds the random parts of selection and the whole of training."""
    stages: list[str] = field(default_factory=lambda: list(STAGES))
    dry_run: bool = False
    """Print the plan and run nothing."""
    command: str = "run"
    """Or ``doctor``, ``prefetch``, ``prepare``, ``verify``: ``launch.commands``; or
    ``dashboard_sync``, ``dashboard_create``: ``track.commands``."""
    sweep: str | None = None
    """Id of a sweep: print how its jobs stand, then report."""
    features: FeaturePass = field(default_factory=FeaturePass)
    health: HealthLimits = field(default_factory=HealthLimits)
    paths: Paths = field(default_factory=Paths)


def check_command(command: str) -> None:
    """Raise UserError unless ``command`` is a known command."""
    if command not in COMMAND_NAMES:
        raise UserError(f"command={command!r}; the choices are {', '.join(COMMAND_NAMES)}.")


def check_name(group: str, name: object) -> None:
    """Raise UserError unless ``name``, the ``name`` of config group ``group``, is printable
    text.
    """
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise UserError(
            f"the name of {group} is {name!a}: expected text that prints, e.g. "
            f"{group}.name=mine (target.label and reference.label for models of the hub)."
        )


def check_model_names(models: Mapping[str, object]) -> None:
    """Raise UserError unless ``models`` holds one model for each name, and no name that is a field
    of the configuration.
    """
    taken = [field.name for field in fields(Root)]
    for name, model in models.items():
        if name in taken or not isinstance(model, Mapping) or "_target_" not in model:
            raise UserError(
                f"models.{name}: expected a model with _target_, under a name of its own, none of "
                f"{', '.join(taken)}. A file of conf/models begins with the line "
                "# @package models.<name>, and <name> is what its signals have as `model`."
            )


def check_stages(stages: list[str]) -> tuple[str, ...]:
    """The stages in pipeline order; UserError for an unknown stage or an empty list."""
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown or not stages:
        got = ", ".join(unknown) or "no stage"
        raise UserError(f"stages: got {got}; the choices are {', '.join(STAGES)}.")
    return tuple(stage for stage in STAGES if stage in stages)
