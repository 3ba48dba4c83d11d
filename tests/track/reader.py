"""Offline runs read back by wandb's own reader."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Offline:
    """What one ``.wandb`` file holds."""

    folder: Path
    id: str = ""
    job_type: str = ""
    group: str = ""
    tags: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    made: dict[str, str] = field(default_factory=dict)
    """Artifact -> digest."""
    used: dict[str, str] = field(default_factory=dict)
    files: dict[str, list[str]] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    exits: int = 0


def offline_runs(root: Path) -> dict[str, Offline]:
    """Run id -> its run; fails when a run is there twice."""
    found: dict[str, Offline] = {}
    for path in sorted((root / "wandb").glob("offline-run-*/run-*.wandb")):
        run = read(path)
        assert run.id not in found, f"{run.id} was written twice"
        found[run.id] = run
    return found


def read(path: Path) -> Offline:
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.internal.datastore import DataStore

    store, run = DataStore(), Offline(path.parent)
    store.open_for_scan(str(path))
    while (data := store.scan_data()) is not None:
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        _take(run, record)
    return run


def _take(run: Offline, record: Any) -> None:
    kind = record.WhichOneof("record_type")
    if kind == "run":
        run.id, run.job_type, run.group = (
            record.run.run_id, record.run.job_type, record.run.run_group,
        )  # fmt: skip
        run.tags = tuple(record.run.tags)
        run.config = {u.key: json.loads(u.value_json) for u in record.run.config.update}
    elif kind == "history":
        run.history.append(_items(record.history.item))
    elif kind == "summary":
        run.summary.update(_items(record.summary.update))
    elif kind == "artifact":
        artifact = record.artifact
        run.files[artifact.name] = [entry.path for entry in artifact.manifest.contents]
        run.metadata[artifact.name] = json.loads(artifact.metadata or "{}")
        into = run.used if artifact.use_after_commit else run.made
        into[artifact.name] = artifact.digest
    elif kind == "exit":
        run.exits += 1


def _items(items: Any) -> dict[str, Any]:
    named: Mapping[str, Any] = {
        item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items
    }
    return dict(named)
