"""Convert a result of the ledger to plain records of three wandb runs.

select -> subset -> train -> adapter -> evaluate

A run's id is derived from the key of what it made, so the same work is the same run wherever and
however often it is written, and experiments that share a subset share its run.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from coincide.config import MODEL_GROUPS
from coincide.ledger.evidence import ArtifactShelf
from coincide.ledger.files import file_name
from coincide.ledger.result import Result, Score
from coincide.report.settings import identity
from coincide.system.files import digest_of
from coincide.terminal.inert import printable
from coincide.terminal.redact import redact
from track.compared import NOTHING, Comparison

VERSION = 2
"""To be raised when the same result is shown differently: everything is then written again."""
LONGEST = 64
"""Letters of a tag at wandb."""
JOB_TYPES = ("select", "train", "evaluate")
EVAL = "eval."
"""How the sources of an evaluation begin that name a benchmark."""


@dataclass(frozen=True)
class WandbTable:
    """A table of wandb; a cell may be ``{"strip": [paths]}``, small pictures side by side."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class WandbArtifact:
    """An artifact of wandb; ``files`` are pairs (name in the artifact, path here)."""

    name: str
    type: str
    files: tuple[tuple[str, str], ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class WandbRun:
    """A run of wandb. What comes from the store (``track.contents``) is added when it is
    written.
    """

    id: str
    name: str
    job_type: str
    group: str
    tags: tuple[str, ...]
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    tables: Mapping[str, WandbTable] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    """Kind -> folder, for the artifacts behind this run that are in the store."""
    history: tuple[Mapping[str, float], ...] = ()
    """One mapping per training step, with the key ``step``."""
    histograms: Mapping[str, Mapping[str, list[float]]] = field(default_factory=dict)
    """Name -> ``counts`` [n] and ``edges`` [n + 1]."""
    makes: tuple[WandbArtifact, ...] = ()
    uses: tuple[WandbArtifact, ...] = ()


def runs_of(
    result: Result, shelf: ArtifactShelf, *, group: str = "", compared: Comparison = NOTHING
) -> list[WandbRun]:
    """The runs of ``result`` without contents of the store; only manifests are read.

    An unfinished result with only a subset gives only the run ``select``.
    """
    group = group or str(result.config.get("group") or "")
    found = []
    if "subset" in result.keys:
        found.append(_select(result, shelf, group))
    if "adapter" in result.keys:
        found.append(_train(result, shelf, group))
    if result.scores:
        found.append(_evaluate(result, shelf, group, compared))
    return found


def digest(run: WandbRun) -> str:
    """A hash that changes when what wandb shows of ``run`` changes, contents of the store aside."""
    told: list[Any] = [
        VERSION,
        run.summary,
        {name: asdict(table) for name, table in run.tables.items()},
    ]
    if run.job_type == "evaluate":
        told.append(run.config["row"])  # its label depends on the other rows
    return digest_of(told)[:16]


def without_secrets(run: WandbRun, environ: Mapping[str, str] | None = None) -> WandbRun:
    """``run`` with no credential in any text, by name or form, and none of ``environ``.

    ``environ``: by default the process's own, looked up at the call (``datasets`` replaces it).
    Paths of files are unchanged: they are opened, and only contents leave the machine.
    """
    found = os.environ if environ is None else environ

    def clean(value: Any) -> Any:
        return printable(redact(value, found))

    def files(artifacts: Iterable[WandbArtifact]) -> tuple[WandbArtifact, ...]:
        return tuple(replace(a, name=clean(a.name), metadata=clean(a.metadata)) for a in artifacts)

    return replace(
        run,
        name=clean(run.name),
        group=clean(run.group),
        tags=tuple(clean(list(run.tags))),
        config=clean(run.config),
        summary=clean(run.summary),
        tables={
            name: replace(table, rows=tuple(_row(row, clean) for row in table.rows))
            for name, table in run.tables.items()
        },
        makes=files(run.makes),
        uses=files(run.uses),
    )


def _row(row: Iterable[Any], clean: Any) -> tuple[Any, ...]:
    return tuple(cell if isinstance(cell, Mapping) else clean(cell) for cell in row)


# --- the three runs ---------------------------------------------------------------------------


def _select(result: Result, shelf: ArtifactShelf, group: str) -> WandbRun:
    subset = result.keys["subset"]
    return WandbRun(
        id=f"select-{_key(subset)}",
        name=_readable(subset),
        job_type="select",
        group=group,
        tags=_tags(result.method, result.data, _budget(result)),
        config=_config(result, ("data", "method", *MODEL_GROUPS, "models")),
        summary={
            "k": result.k,
            "budget": result.budget,
            "sources": len(result.composition),
            **_seconds(result, ("features", "select")),
        },
        tables={"composition": _composition(result)},
        sources=_selection(shelf, result),
    )


def _train(result: Result, shelf: ArtifactShelf, group: str) -> WandbRun:
    adapter = result.keys["adapter"]
    groups = ("data", "method", "target", "train")
    return WandbRun(
        id=f"train-{_key(adapter)}",
        name=f"{_readable(adapter)} seed {result.seed}",
        job_type="train",
        group=group,
        tags=_tags(result.method, result.data, result.target, _budget(result)),
        config={**_config(result, groups), "seed": result.seed},
        summary={"k": result.k, "budget": result.budget, **_seconds(result, ("train",))},
        sources=_found(shelf, {"adapter": adapter, "subset": result.keys.get("subset", "")}),
    )


def _evaluate(result: Result, shelf: ArtifactShelf, group: str, compared: Comparison) -> WandbRun:
    name = file_name(result)
    scores = {
        f"score/{score.benchmark}/{score.metric}": score.value
        for score in result.scores
        if score.value is not None
    }
    return WandbRun(
        id=f"evaluate-{name.removesuffix('.json').rsplit('-', 1)[-1]}",
        name=f"{result.method} on {_short(result.data)}, {_budget(result)}, seed {result.seed}",
        job_type="evaluate",
        group=group,
        tags=_tags(result.method, result.data, result.target, _budget(result)),
        config={
            **_config(result, tuple(_groups(result))),
            **({"row": f"{compared.label} {_budget(result)}"} if compared.label else {}),
            "seed": result.seed,
            "ledger": name,
        },
        summary={
            "k": result.k,
            "budget": result.budget,
            **scores,
            **_replies(result),
            **compared.summary(),
            **_seconds(result, ("features", "select", "train", "evaluate")),
        },
        tables={"benchmarks": _benchmarks(result, compared), "composition": _composition(result)},
        sources=_found(shelf, _evaluated(result)),
    )


def _evaluated(result: Result) -> dict[str, str]:
    """The adapter, and ``eval.<benchmark>``: what was answered."""
    folders = {f"{EVAL}{s.benchmark}": s.samples for s in result.scores if s.samples}
    return {"adapter": result.keys.get("adapter", ""), **folders}


def _found(shelf: ArtifactShelf, recorded: Mapping[str, str]) -> dict[str, str]:
    return {kind: str(path) for kind, path in shelf.found(recorded).items()}


def _selection(shelf: ArtifactShelf, result: Result) -> dict[str, str]:
    """Kind -> path of the subset, its clusters and scores, and the image folder."""
    found = shelf.found({"subset": result.keys["subset"]})
    if not found:
        return {}
    subset = found["subset"]
    needs = {kind: shelf.need(subset, kind) for kind in ("clusters", "scores")}
    needs["pictures"] = shelf.pictures(shelf.need(subset, "data"), result.config)
    return {kind: str(path.absolute()) for kind, path in (found | needs).items() if path}


def _replies(result: Result) -> dict[str, float]:
    """``readable/<benchmark>``, the share of replies that could be read, and beside a score what
    the lenient reading, or lmms-eval itself, makes of the same replies; and the likelihoods of the
    right answers.
    """
    shares = {f"readable/{s.benchmark}": s.readable for s in reversed(result.scores)}
    theirs = {f"lmms_eval/{s.benchmark}/{s.metric}": s.lmms_eval for s in result.scores}
    lenient = {f"lenient/{s.benchmark}/{s.metric}": s.value for s in result.lenient}
    likely = {f"likelihood/{s.benchmark}/{s.metric}": s.value for s in result.likelihood}
    return {k: v for k, v in {**shares, **lenient, **likely, **theirs}.items() if v is not None}


def _config(result: Result, groups: Iterable[str]) -> dict[str, Any]:
    """The flat names by which charts group, and the resolved configuration of ``groups``."""
    resolved = {name: result.config[name] for name in groups if name in result.config}
    return {
        "row": f"{_label(result)} {_budget(result)}{_own(result)}",
        "method_name": result.method,
        "variant": result.variant,
        "data_name": result.data,
        "data_id": result.contents.get("data", ""),
        "reference_name": result.reference,
        "target_name": result.target if "target" in resolved else "",
        "target_id": result.contents.get("target", "") if "target" in resolved else "",
        "budget": result.budget,
        "k": result.k,
        "commit": result.commit,
        "versions": dict(result.versions),
        "run": resolved,
    }


def _groups(result: Result) -> list[str]:
    return [name for name in result.config if name not in ("paths", "logger", "launcher")]


def _composition(result: Result) -> WandbTable:
    total = sum(result.composition.values()) or 1
    rows = ((source, n, n / total) for source, n in sorted(result.composition.items()))
    return WandbTable(("source", "rows", "share"), tuple(rows))


def _benchmarks(result: Result, compared: Comparison) -> WandbTable:
    columns = "method budget seed benchmark metric score stderr n rel protocol missing readable"
    lines = tuple(_line(result, score, compared) for score in result.scores)
    return WandbTable(tuple(columns.split()), lines)


def _line(result: Result, score: Score, compared: Comparison) -> tuple[Any, ...]:
    rel = compared.by_benchmark.get(score.benchmark) if score.metric in compared.metrics else None
    return (
        result.method, result.budget, result.seed, score.benchmark, score.metric, score.value,
        score.stderr, score.n, rel, score.protocol, score.why, score.readable,
    )  # fmt: skip


def _seconds(result: Result, stages: Iterable[str]) -> dict[str, float]:
    return {
        f"seconds/{stage}": result.seconds[stage] for stage in stages if stage in result.seconds
    }


def _short(name: str) -> str:
    """``name`` as part of a run's name, of which wandb's server takes 128 letters."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def _tags(*names: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name[:LONGEST] for name in names if name))


def _budget(result: Result) -> str:
    return f"{result.budget:.4g}"


def _label(result: Result) -> str:
    return f"{result.method} ({result.variant})" if result.variant else result.method


def _own(result: Result) -> str:
    """Digits that distinguish it from other settings and contents with the same names."""
    return f" #{hashlib.sha256(identity(result).encode()).hexdigest()[:6]}" * bool(result.contents)


def _key(folder: str) -> str:
    return folder.rstrip("/").rsplit("-", 1)[-1]


def _readable(folder: str) -> str:
    return Path(folder).name.rsplit("-", 1)[0]
