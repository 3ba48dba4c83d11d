"""What training rows did to samples, as ``python -m coincide.influence`` found it, for the page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coincide.ledger.evidence import ArtifactShelf
from coincide.report.gallery import examples_of
from coincide.report.pictures import Budget, benchmark_pictures, training_picture
from coincide.report.records import Panel
from coincide.system.files import read_cache, write_text
from coincide.terminal.inert import printable

if TYPE_CHECKING:
    from PIL import Image

    from coincide.ledger.result import Result
    from coincide.schema import Example

SIDE = 160
SHOWN = 12
"""Samples shown in a panel."""
LETTERS = 300


def folder_of(shelf: ArtifactShelf, run: Result) -> Path | None:
    """Where what was found for the run's samples lies; None without its subset."""
    subset = shelf.subset(run)
    return None if subset is None or shelf.root is None else (
        shelf.root / ".cache" / "influence" / subset.name
    )  # fmt: skip


def keep(folder: Path, found: Mapping[str, Any]) -> None:
    """Write what was found for a sample: ``benchmark``, ``document``, ``question``, ``target``,
    ``answer``, ``score``, ``gradients`` (the store's name), ``counts`` (a sentence), and ``up`` and
    ``down``, lists of row and cosine.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, ensure_ascii=False, sort_keys=True)
    path = folder / f"{found['benchmark']}-{found['document']}.json"
    write_text(path, text)


def influences(panel: Panel, shelf: ArtifactShelf, budget: Budget) -> list[dict[str, Any]]:
    """For each sample that was looked at of a run of the panel: ``title``, ``run``, ``question``,
    ``target``, ``answer``, ``score``, ``gradients``, ``counts``, ``pictures``, and ``up`` and
    ``down``, lists of ``cosine``, ``about``, ``texts`` and ``pictures``.
    """
    shown: list[dict[str, Any]] = []
    for row in panel.rows:
        for run in row.runs:
            folder = folder_of(shelf, run)
            for path in sorted(folder.glob("*.json")) if folder and folder.is_dir() else ():
                found = read_cache(path)
                if len(shown) < SHOWN and _whole(found):
                    label = f"{row.label}, seed {run.seed}"
                    shown.append(_shown(found, label, run, shelf, budget))
    return printable(shown, keep="\n")


def _whole(found: Mapping[str, Any]) -> bool:
    """Whether the file is what :func:`keep` writes."""
    return (
        isinstance(found.get("benchmark"), str)
        and isinstance(found.get("document"), int)
        and all(
            isinstance(found.get(side), list)
            and all(
                isinstance(each, list)
                and len(each) == 2
                and isinstance(each[0], int)
                and isinstance(each[1], float)
                for each in found[side]
            )
            for side in ("up", "down")
        )
    )


def _shown(
    found: Mapping[str, Any], label: str, run: Result, shelf: ArtifactShelf, budget: Budget
) -> dict[str, Any]:
    subset = shelf.subset(run)
    wanted = {row for side in ("up", "down") for row, _ in found[side]}
    examples, root = examples_of(shelf, run, subset, wanted) if subset else ({}, None)
    document = found["document"]
    samples = shelf.samples(run, found["benchmark"])
    records = samples.texts([document]) if samples else {}
    pictures, _ = benchmark_pictures(shelf, run, found["benchmark"], records)
    return {
        "title": f"{found['benchmark']}:{document}",
        "run": label,
        **{
            name: _brief(found.get(name))
            for name in ("gradients", "counts", "question", "target", "answer", "score")
        },
        "pictures": _uris(pictures.get(document, ()), budget),
        **{
            side: [
                _row(examples[row], cosine, root, budget)
                for row, cosine in found[side]
                if row in examples
            ]
            for side in ("up", "down")
        },
    }


def _row(example: Example, cosine: float, root: Path | None, budget: Budget) -> dict[str, Any]:
    return {
        "cosine": f"{cosine:+.3f}",
        "about": f"row {example.row}, {example.source}",
        "texts": [_brief(turn.text.replace("<image>", "").strip()) for turn in example.turns[:4]],
        "pictures": _uris((training_picture(root, each) for each in example.images), budget)
        if root is not None and budget
        else [],
    }


def _uris(pictures: Iterable[Image.Image | None], budget: Budget) -> list[str]:
    """Those that can be shown."""
    return [uri for picture in pictures if (uri := budget.uri(picture, SIDE))]


def _brief(value: Any) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= LETTERS else f"{text[:LETTERS]}…"
