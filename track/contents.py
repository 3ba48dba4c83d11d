"""Add to a wandb run what the store has: curves, clusters with pictures, histograms, artifacts."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from coincide.store import DamagedArtifact, open_artifact
from coincide.system.files import as_name
from coincide.terminal.redact import redact
from track.records import EVAL, WandbArtifact, WandbRun, WandbTable

POINTS = 4000
"""Most points of a training curve."""
ROWS = 10_000
"""Most rows of a table, wandb's own limit."""
STRIP = 4
"""Pictures shown per cluster."""
BINS = 64
CURVES = ("loss", "learning_rate", "grad_norm", "answer_tokens")
_SUBSET = ("rows.npy", "ids.json", "clusters.parquet", "scores.npy", "subset.json")
_ADAPTER = ("adapter/*", "log.jsonl")


def with_store_contents(run: WandbRun, *, artifact_mb: int, thumbnails: int) -> WandbRun:
    """``run`` with everything from its ``sources``, limited in size.

    Sources that are damaged are not among its ``sources`` any more.
    """
    named = {kind: Path(path) for kind, path in run.sources.items()}
    folders = {kind: p for kind, p in named.items() if kind == "pictures" or _intact(p)}
    run = replace(run, sources={kind: str(path) for kind, path in folders.items()})
    measured = {k.removeprefix(EVAL): folders.pop(k) for k in list(folders) if k.startswith(EVAL)}
    subset, adapter = (
        [_files(folders[kind], kind, names, artifact_mb)] if kind in folders else []
        for kind, names in (("subset", _SUBSET), ("adapter", _ADAPTER))
    )
    if run.job_type == "select":
        tables = {**run.tables, **_clusters(folders, thumbnails)}
        found = replace(run, makes=tuple(subset), tables=tables, histograms=_histograms(folders))
        return replace(found, summary={**run.summary, **_selected(folders)})
    if run.job_type == "train":
        history = tuple(_curve(folders["adapter"] / "log.jsonl")) if adapter else ()
        return replace(run, uses=tuple(subset), makes=tuple(adapter), history=history)
    return replace(run, uses=tuple(adapter), summary={**run.summary, **_moved(measured)})


def _moved(measured: Mapping[str, Path]) -> dict[str, int]:
    """``pictures_moved/<benchmark>``: how many questions name their pictures out of order, where
    any do.
    """
    found = {}
    for benchmark, folder in measured.items():
        with suppress(DamagedArtifact, OSError, ValueError, AttributeError):
            text = open_artifact(folder).file("result.json").read_text(encoding="utf-8")
            if count := json.loads(text).get("pictures_moved"):
                found[f"pictures_moved/{benchmark}"] = int(count)
    return found


def _intact(folder: Path) -> bool:
    """Whether the artifact in ``folder`` is undamaged; prints a message if not."""
    try:
        open_artifact(folder).check()
    except DamagedArtifact as error:
        print(f"track: {error} It is left out.", flush=True)
        return False
    return True


# --- artifacts --------------------------------------------------------------------------------


def _files(folder: Path, kind: str, patterns: Iterable[str], limit_mb: int) -> WandbArtifact:
    """The files that fit the limit, smallest first, so the same ones everywhere.

    The metadata lists all files with their hashes, and the facts without secrets.
    """
    record = open_artifact(folder).manifest
    paths = sorted(
        (path for pattern in patterns for path in folder.glob(pattern) if path.is_file()),
        key=lambda path: (path.stat().st_size, path.name),
    )
    room = limit_mb * 1e6
    chosen = []
    for path in paths:
        room -= path.stat().st_size
        if room < 0:
            break
        chosen.append((str(path.relative_to(folder)), str(path)))
    facts = redact(dict(record["facts"]))
    metadata = {"key": record["key"], "needs": record["needs"], "facts": facts}
    left = {"left_out": [str(p.relative_to(folder)) for p in paths[len(chosen) :]]}
    return WandbArtifact(
        as_name(folder.name, 128),
        kind,
        tuple(chosen),
        metadata | (left if left["left_out"] else {}),
    )


# --- training ---------------------------------------------------------------------------------


def _curve(log: Path) -> Iterable[dict[str, float]]:
    """``log.jsonl`` as ``train/loss`` etc. by step; thinned evenly, keeping the last step."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    stride = max(1, math.ceil(len(lines) / POINTS))
    kept = [line for i, line in enumerate(lines) if (len(lines) - 1 - i) % stride == 0]
    for record in map(json.loads, kept):
        values = {f"train/{name}": record[name] for name in CURVES if name in record}
        yield {"step": record["step"], **{k: v for k, v in values.items() if math.isfinite(v)}}


# --- selection --------------------------------------------------------------------------------


def _selected(folders: Mapping[str, Path]) -> dict[str, float]:
    """Figures of the selection: size of the pool, rows filled up, and the method's own facts."""
    if "subset" not in folders:
        return {}
    facts = open_artifact(folders["subset"]).facts
    names = ("rows", "topped_up", "unusable", "select_seconds")
    figures = {name: facts[name] for name in names if name in facts} | facts.get("details", {})
    return {f"selection/{k}": v for k, v in _flat(figures) if isinstance(v, int | float)}


def _flat(value: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        yield prefix, value
        return
    for key, item in value.items():
        yield from _flat(item, f"{prefix}/{key}" if prefix else str(key))


def _histograms(folders: Mapping[str, Path]) -> dict[str, dict[str, list[float]]]:
    """Histograms of the scores of all rows and of the chosen ones.

    Histograms of the clusters' scores if rows have none.
    """
    import numpy as np

    if "subset" not in folders:
        return {}
    folder, clusters = folders["subset"], _frame(folders["subset"] / "clusters.parquet")
    kept = [folder / "scores.npy"]
    kept += [folders["scores"] / "score.npy"] if "scores" in folders else []
    if found := [path for path in kept if path.is_file()]:
        scores = np.load(found[0], allow_pickle=False)
        chosen = scores[np.load(folder / "rows.npy", allow_pickle=False)]
        named = {"scores/all": scores, "scores/chosen": chosen}
    else:
        named = {"scores/clusters": np.asarray(clusters.get("score", []), dtype=float)}
    finite = {name: values[np.isfinite(values)] for name, values in named.items()}
    return {name: _histogram(values) for name, values in finite.items() if len(values)}


def _histogram(values: Any) -> dict[str, list[float]]:
    import numpy as np

    counts, edges = np.histogram(values, bins=BINS)
    return {"counts": counts.tolist(), "edges": edges.tolist()}


def _clusters(folders: Mapping[str, Path], thumbnails: int) -> dict[str, WandbTable]:
    """Tables: ``allocation`` (every cluster), ``clusters`` (those with most picks, with
    pictures).
    """
    columns = _allocation(folders)
    if not columns:
        return {}
    names, lines = tuple(columns), list(zip(*columns.values(), strict=True))
    found = {"allocation": WandbTable(names, tuple(lines[:ROWS]))}
    if "pictures" in folders and "clusters" in folders and thumbnails:
        picks, ids = names.index("chosen"), names.index("cluster")
        shown = sorted(lines, key=lambda line: -line[picks])[:thumbnails]
        strips = _strips(folders, [line[ids] for line in shown])
        rows = tuple((*line, {"strip": strips[line[ids]]}) for line in shown)
        found["clusters"] = WandbTable((*names, "examples"), rows)
    return found


def _allocation(folders: Mapping[str, Path]) -> dict[str, list[Any]]:
    """The method's own table of clusters; without one, sizes and picks."""
    import numpy as np

    if "subset" not in folders:
        return {}
    own = _frame(folders["subset"] / "clusters.parquet")
    if own or "clusters" not in folders:
        return own if {"cluster", "chosen"} <= own.keys() else {}
    assignment, rows = _assigned(folders)
    k = int(assignment.max(initial=-1)) + 1
    sizes = np.bincount(assignment[assignment >= 0], minlength=k)
    picked = assignment[rows]
    chosen = np.bincount(picked[picked >= 0], minlength=k)
    return {"cluster": list(range(k)), "size": sizes.tolist(), "chosen": chosen.tolist()}


def _strips(folders: Mapping[str, Path], clusters: Sequence[int]) -> dict[int, list[str]]:
    """Cluster -> paths of the pictures of its first chosen rows, below the image folder."""
    assignment, rows = _assigned(folders)
    records = json.loads((folders["subset"] / "subset.json").read_text(encoding="utf-8"))
    found: dict[int, list[str]] = {cluster: [] for cluster in clusters}
    for row, record in zip(rows, records, strict=True):
        strip = found.get(int(assignment[row]))
        image = record.get("image")
        first = image[0] if isinstance(image, list) and image else image
        if strip is not None and len(strip) < STRIP and isinstance(first, str):
            strip.append(first)
    return found


def _assigned(folders: Mapping[str, Path]) -> tuple[Any, Any]:
    import numpy as np

    assignment = np.load(folders["clusters"] / "assignment.npy", allow_pickle=False)
    return assignment, np.load(folders["subset"] / "rows.npy", allow_pickle=False)


def _frame(path: Path) -> dict[str, list[Any]]:
    if not path.is_file():
        return {}
    from pyarrow.parquet import read_table

    columns = read_table(path).to_pydict()
    return {name: [_finite(value) for value in values] for name, values in columns.items()}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
