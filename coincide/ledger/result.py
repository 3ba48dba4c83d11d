"""The record of a run in the ledger: its scores, and what made them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Score:
    """One figure of one benchmark. ``value`` None: missing, with the reason in ``why``."""

    benchmark: str
    metric: str
    value: float | None
    n: int
    """Number of samples behind the value."""
    stderr: float | None = None
    protocol: str = ""
    """Split, prompt, OCR tokens, batch, ...: must agree before two values are compared."""
    why: str = ""
    samples: str = ""
    """Folder in the store whose ``samples.jsonl`` holds the score of each sample."""
    unit: str = ""
    """What ``stderr`` and intervals resample, e.g. ``picture``; empty: not recorded."""
    units: int | None = None
    """Number of such units; None: not recorded, samples count as independent."""
    asked: str = ""
    """Hash of the documents, prompts and scoring (``coincide.ledger.identity.asked_hash``); empty:
    not recorded. Scores with different hashes are never compared, whatever the protocol says."""
    readable: float | None = None
    """Share of the replies that could be read, 0 to 1; None: not known."""
    lmms_eval: float | None = None
    """lmms-eval's own figure, if it differs."""


@dataclass(frozen=True)
class Cost:
    """Time and GPUs that it took to build one artifact behind a result."""

    stage: str
    """``reference`` (making the model that features come from), ``features``, ``select``, ``train``
    or ``evaluate``."""
    folder: str
    seconds: float
    """Wall-clock seconds. Signals of one pass, and benchmarks of one process, share a clock."""
    started: float
    """Unix time of the start: artifacts built together start together and are charged once."""
    gpus: int = 0
    """Number of GPUs used."""


@dataclass(frozen=True)
class Result:
    """One result of the ledger: one (method, data, budget, target, seed), evaluated on a suite."""

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
    """Wall-clock seconds by stage, of the build itself, not of a later cache hit."""
    keys: Mapping[str, str]
    """Artifact folder by kind, e.g. ``subset: store/subset/...``."""
    composition: Mapping[str, int]
    """Rows of the subset by source."""
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    commit: str = ""
    created: str = ""
    costs: tuple[Cost, ...] = ()
    """Cost of each artifact; results that name the same artifact share its cost."""
    hardware: Mapping[str, Any] = field(default_factory=dict)
    contents: Mapping[str, str] = field(default_factory=dict)
    """Keys of the parts by config group (``data``, ``target``, ``method``) or name (the models that
    its signals come from: ``reference``, ``clip``, ...). Two parts may share a name, but not a key.
    Empty: not recorded."""
    aside: tuple[str, ...] = ()
    """Fields of ``config.method`` and ``config.train`` that do not change the answer, as declared
    by them."""
    lenient: tuple[Score, ...] = ()
    """Scores of a lenient reading of the same replies, with protocols of their own
    (``scoring=lenient``); empty if not known."""
    likelihood: tuple[Score, ...] = ()
    """Likelihoods of the right answers, with protocols of their own (``score=likelihood``); empty
    if not recorded."""


@dataclass(frozen=True)
class CommittedResult(Result):
    """A result that ships with the project; never written to the user's ledger."""
