"""Write runs to wandb: existing ones are skipped, and failures do not propagate.

wandb runs in a separate process (``track.write``) that is killed at its deadline. What was written
is marked, by destination and run, so that a second time writes nothing and the next time completes
an interrupted one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from filelock import Timeout

from coincide.system.files import write_json
from coincide.system.processes import locked
from track.contents import with_store_contents
from track.process import answer, one_line, reason_of, root_of, running
from track.records import VERSION, WandbRun, digest, without_secrets
from track.settings import LENT, Logger

BYTES_A_SECOND = 10e6
"""Assumed upload rate, for the deadline."""
BATCH = 16
"""Runs that one process writes, all held in memory."""
Lack = Literal["all", "summary"]


class NotWritten(Exception):
    """wandb refused, failed, or did not answer in time."""


@dataclass(frozen=True)
class SyncCounts:
    """Numbers of runs that were written, and of those that were there already."""

    written: int
    known: int
    damaged: int = 0
    """Of those written, how many lack an artifact of the store that is damaged."""


def sync(runs: Iterable[WandbRun], logger: Logger) -> SyncCounts:
    """Write those of ``runs`` that the destination does not have in this form; each at most once.

    Of two runs with the same id the first counts. Raises :class:`NotWritten`, with the reason, if
    not all could be written in time; those that were are marked.
    """
    unique = list({run.id: run for run in reversed(list(runs))}.values())[::-1]
    if all(_lacks(run, logger) is None for run in unique):
        return SyncCounts(0, len(unique))
    with _alone(logger):
        orders = [(run, lacks) for run in unique if (lacks := _lacks(run, logger))]
        failures: list[str] = []
        damaged = 0
        for i in range(0, len(orders), BATCH):
            failed, lacking = _write(orders[i : i + BATCH], logger)
            failures += failed
            damaged += lacking
    if failures:
        raise NotWritten(f"{len(failures)} of {len(orders)} runs: {failures[0]}")
    return SyncCounts(len(orders), len(unique) - len(orders), damaged)


# --- marks ------------------------------------------------------------------------------------


def marks(logger: Logger) -> Path:
    """The folder with a mark for each run that this destination has."""
    place = "offline"
    if logger.mode == "online":
        host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").rpartition("@")[2]
        entity = logger.entity or os.environ.get("WANDB_ENTITY", "own")
        place = f"{re.sub(r'^https?://', '', host)}-{entity}"
    name = re.sub(r"[^\w.]+", "-", f"{place}-{logger.project}")
    return root_of(logger) / "wandb" / "marks" / name


def _lacks(run: WandbRun, logger: Logger) -> Lack | None:
    """What the destination lacks of ``run``. Offline files are not amended but written again."""
    try:
        mark = json.loads((marks(logger) / f"{run.id}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "all"
    if mark["version"] != VERSION or not run.sources.keys() <= set(mark["sources"]):
        return "all"
    if mark["digest"] == digest(run):
        return None
    return "all" if logger.mode == "offline" else "summary"


def _mark(run: WandbRun, logger: Logger, folder: str) -> None:
    """Record what was written. An offline run that was not uploaded is replaced by its new
    version.
    """
    record = {
        "digest": digest(run),
        "folder": folder,
        "sources": sorted(run.sources),
        "version": VERSION,
    }
    write_json(marks(logger) / f"{run.id}.json", record)
    if logger.mode == "offline":
        _remove_others(Path(folder), run.id, marks(logger).parent)


def _remove_others(newest: Path, run_id: str, shelf: Path) -> None:
    """Remove older versions of the run, unfinished ones too.

    Not those that were uploaded or marked.
    """
    marked = [json.loads(m.read_text(encoding="utf-8")) for m in shelf.glob(f"*/{run_id}.json")]
    kept = {newest.name, *(Path(mark["folder"]).name for mark in marked)}
    for path in newest.parent.glob(f"offline-run-*-{run_id}"):
        if path.name not in kept and not list(path.glob("*.wandb.synced")):
            for folder in (path, newest.parent / LENT / path.name):
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _alone(logger: Logger) -> Iterator[None]:
    """Only one process at a time writes to a destination; jobs of a sweep take turns."""
    folder = marks(logger)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder / ".lock", logger.timeout):  # without locks: marks tell what is written
            yield
    except Timeout as error:
        raise NotWritten("another process is writing there") from error


# --- the process that writes ------------------------------------------------------------------


def _write(orders: Sequence[tuple[WandbRun, Lack]], logger: Logger) -> tuple[list[str], int]:
    """Write and mark; the reasons of failures, and how many runs lack a damaged artifact.

    Stops after two failures in a row.
    """
    size = {"artifact_mb": logger.artifact_mb, "thumbnails": logger.thumbnails}
    told = [without_secrets(with_store_contents(run, **size)) for run, _ in orders]
    order = {
        "logger": asdict(logger),
        "root": str(root_of(logger)),
        "runs": [
            {"run": asdict(run), "whole": lacks == "all"}
            for run, (_, lacks) in zip(told, orders, strict=True)
        ],
    }
    failures: list[str] = []
    in_a_row = 0
    deadlines = [logger.timeout + _bytes(run) / BYTES_A_SECOND for run in told]
    with running("track.write", order, logger, sum(deadlines)) as child:
        for (run, _), found, seconds in zip(orders, told, deadlines, strict=True):
            said = answer(child, seconds)
            if said is None:
                raise NotWritten(reason_of(child, logger))
            if "folder" in said:
                _mark(replace(run, sources=found.sources), logger, said["folder"])
                in_a_row = 0
                continue
            failures.append(one_line(said["failed"]))
            in_a_row += 1
            if in_a_row == 2:
                raise NotWritten(failures[0])
    pairs = zip(orders, told, strict=True)
    return failures, sum(found.sources != run.sources for (run, _), found in pairs)


def _bytes(run: WandbRun) -> int:
    artifacts = (*run.makes, *run.uses)
    return sum(Path(path).stat().st_size for files in artifacts for _, path in files.files)
