"""Write runs to wandb: ``python -m track.write``, a separate process with a deadline.

stdin: ``{"logger": {...}, "root": ..., "runs": [{"run": {...}, "whole": bool}]}``. stdout, a line
for each run: ``{"folder": ...}`` or ``{"failed": reason}``. The only module that uses wandb's run
client.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coincide.data.images import load_image
from coincide.schema import UserError
from track.process import failure, order_and_answers
from track.records import WandbArtifact, WandbRun, WandbTable
from track.settings import LENT, Logger

SIDE = 64
"""Longer side of a thumbnail in pixels."""


def main() -> None:
    """Read the order and write its runs one after the other, answering after each."""
    order, answers = order_and_answers()
    logger, root = Logger(**order["logger"]), Path(order["root"])
    for item in order["runs"]:
        try:
            answer = {"folder": write(_run(item["run"]), logger, root, whole=item["whole"])}
        except Exception as error:  # whatever wandb raises: the next run may go better
            answer = failure(error)
        print(json.dumps(answer), file=answers, flush=True)


def write(run: WandbRun, logger: Logger, root: Path, *, whole: bool) -> str:
    """Write one run; without ``whole`` only its summary and the ledger's tables.

    A run that the server knows is resumed. Returns the folder that wandb made for it.
    """
    import wandb

    with wandb.init(
        project=logger.project,
        entity=logger.entity,
        id=run.id,
        name=run.name,
        group=run.group or None,
        job_type=run.job_type,
        tags=run.tags,
        config=dict(run.config),
        resume="allow" if logger.mode == "online" else None,
        settings=_settings(logger, root),
    ) as live:
        folder = Path(live.dir).parent
        lent = folder.parent / LENT / folder.name
        if whole:
            _history(live, run)
        pictures = run.sources.get("pictures", "")
        shown: dict[str, Any] = {n: _table(t, pictures) for n, t in run.tables.items()}
        shown |= {name: _histogram(values) for name, values in run.histograms.items()}
        live.log({**run.summary, **shown})  # one line; wandb makes the summary of it
        if whole:
            _artifacts(live, run, lent)
    if logger.mode == "online":
        shutil.rmtree(lent, ignore_errors=True)
    return str(folder)


def _settings(logger: Logger, root: Path) -> Any:
    """Settings with which nothing about this machine or user is sent: no console, environment, git,
    hardware.
    """
    import wandb

    return wandb.Settings(
        mode="online" if logger.mode == "online" else "offline",
        root_dir=str(root),
        init_timeout=0.8 * logger.timeout,
        silent=True,
        console="off",
        save_code=False,
        disable_git=True,
        disable_job_creation=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
    )


def _history(live: Any, run: WandbRun) -> None:
    """Log the steps that the server lacks, so that an interrupted time is continued."""
    for point in run.history:
        if point["step"] < live.starting_step:
            continue
        values = {name: value for name, value in point.items() if name != "step"}
        live.log(values, step=int(point["step"]))


def _artifacts(live: Any, run: WandbRun, lent: Path) -> None:
    """Log what the run made and used: the same contents are the same version everywhere.

    wandb's ``use_artifact`` does not work offline; the record that it would write does.
    """
    for files in run.makes:
        live.log_artifact(_artifact(files, lent))
    for files in run.uses:
        live._log_artifact(_artifact(files, lent), is_user_created=True, use_after_commit=True)


def _artifact(files: WandbArtifact, lent: Path) -> Any:
    """An artifact made of links to the store's files, since ``wandb beta sync`` deletes what it has
    uploaded.

    Links take no space; if the store is on another disk or cannot be linked, they are copies.
    """
    import wandb

    found = wandb.Artifact(files.name, files.type, metadata=dict(files.metadata))
    for name, path in files.files:
        link = lent / files.name / name
        link.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, link)
        except OSError:
            shutil.copyfile(path, link)
        found.add_file(str(link), name=name, policy="immutable", skip_cache=True)
    return found


def _table(table: WandbTable, pictures: str) -> Any:
    import wandb

    rows = [[_cell(cell, pictures) for cell in row] for row in table.rows]
    return wandb.Table(columns=list(table.columns), data=rows, allow_mixed_types=True)


def _histogram(values: Mapping[str, list[float]]) -> Any:
    import numpy as np
    import wandb

    return wandb.Histogram(np_histogram=(np.asarray(values["counts"]), np.asarray(values["edges"])))


def _cell(cell: Any, pictures: str) -> Any:
    if not isinstance(cell, dict):
        return cell
    import wandb

    strip = _strip(cell["strip"], Path(pictures))
    return None if strip is None else wandb.Image(strip, file_type="jpg")


def _strip(names: list[str], folder: Path) -> Any:
    """Pictures side by side; unreadable ones are left out, None if none is left."""
    from PIL import Image

    found = []
    for name in names:
        try:
            picture = load_image(folder, name)
        except UserError:
            continue
        picture.thumbnail((SIDE, SIDE))
        found.append(picture)
    if not found:
        return None
    strip = Image.new("RGB", (SIDE * len(found), SIDE), "white")
    for i, picture in enumerate(found):
        strip.paste(picture, (i * SIDE, 0))
    return strip


def _run(record: dict[str, Any]) -> WandbRun:
    """The run from its JSON record."""
    tables = {
        name: WandbTable(tuple(t["columns"]), tuple(tuple(row) for row in t["rows"]))
        for name, t in record["tables"].items()
    }
    files = {
        kind: tuple(
            WandbArtifact(f["name"], f["type"], tuple(map(tuple, f["files"])), f["metadata"])  # type: ignore[arg-type]
            for f in record[kind]
        )
        for kind in ("makes", "uses")
    }
    lists = {"tags": tuple(record["tags"]), "history": tuple(record["history"])}
    return WandbRun(**{**record, "tables": tables, **files, **lists})


if __name__ == "__main__":
    main()
