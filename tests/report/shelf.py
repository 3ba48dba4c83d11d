"""A store as runs leave it, with invented contents: subsets, clusters, samples, pictures."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from coincide.ledger.result import Result
from coincide.system.files import write_list
from tests.report.fixture import BENCHMARKS

PICTURES = 300
DATA = "demo-0000000000da"
CLUSTERS = "k-00000000000c"


def fill(
    root: Path,
    runs: Sequence[Result],
    *,
    samples: int = 40,
    clusters: int = 40,
    rows: int = 4000,
    side: int = 48,
    letters: int = 0,
) -> list[Result]:
    """Write into ``root`` what ``runs`` would have left, and return them with scores that fit.

    Each method knows its own share of the samples; seeds differ a little. ``letters``: those of an
    answer in a file with the rows of COINCIDE's subsets of seed 0; 0: there is no such file.
    """
    _data(root, samples, rows, side)
    _artifact(root / "clusters" / CLUSTERS, {}, {})
    of = np.arange(rows) % clusters
    np.save(root / "clusters" / CLUSTERS / "assignment.npy", of)
    return [_run(root, run, samples, of, letters) for run in runs]


def _run(root: Path, run: Result, samples: int, clusters: np.ndarray, letters: int) -> Result:
    rng = np.random.default_rng([*run.method.encode(), run.k, run.seed])
    subset = f"subset/{run.method}-{_key(run, 'subset')}"
    rows = _subset(root / subset, run, clusters, rng)
    if letters and run.method == "coincide" and run.seed == 0:
        texts = (json.dumps(_row(int(row), "words " * (letters // 6))) for row in rows)
        write_list(root / subset / "subset.json", texts)
    scores, keys = [], {"subset": subset}
    hard = np.random.default_rng(5).normal(0, 1.2, (len(BENCHMARKS), samples))
    for score, difficulty in zip(run.scores, hard, strict=False):
        folder = f"eval/{score.benchmark}-{run.method}-{_key(run, score.benchmark)}"
        level = 0.0 if score.value is None else (score.value - 60) / 15
        right = rng.random(samples) < 1 / (1 + np.exp(-(level + difficulty)))
        _evaluation(root / folder, score.benchmark, right)
        scores.append(replace(score, value=float(right.mean()), n=samples, samples=folder))
        keys[f"eval.{score.benchmark}"] = folder
    return replace(run, scores=tuple(scores), keys=keys)


def _key(run: Result, what: str) -> str:
    text = f"{run.data} {run.target} {run.method} {run.k} {run.seed} {what}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _artifact(folder: Path, config: Mapping[str, Any], needs: Mapping[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"config": config, "needs": needs, "facts": {}})
    (folder / "manifest.json").write_text(text)


def _subset(folder: Path, run: Result, of: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    _artifact(folder, {}, {"needs.0.data": DATA, "needs.1.clusters": CLUSTERS})
    rows = np.sort(rng.choice(len(of), run.k, replace=False))
    np.save(folder / "rows.npy", rows)
    if run.method != "coincide":
        return rows
    size = np.bincount(of)
    clusters = len(size)
    table = {
        "cluster": range(clusters), "size": size,
        "transferability": rng.uniform(0.6, 0.9, clusters),
        "density": [None, *rng.uniform(0.2, 0.8, clusters - 1)],
        "score": rng.uniform(1, 4, clusters),
        "target": size, "chosen": np.bincount(of[rows], minlength=clusters),
    }  # fmt: skip
    pd.DataFrame(table).to_parquet(folder / "clusters.parquet")
    return rows


def _evaluation(folder: Path, name: str, right: np.ndarray) -> None:
    config = {"benchmark": name, "data": {"test": f"benchmarks/{name}/test.parquet"}}
    _artifact(folder, config, {"needs.0.data": DATA})
    lines = [
        {"doc_id": i, "question": f"{name} {i}: which?\nA or B", "answer": "A" if hit else "B",
         "target": "A", "question_id": i, "score": float(hit), "category": "letters"}
        for i, hit in enumerate(right)
    ]  # fmt: skip
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _data(root: Path, samples: int, rows: int, side: int) -> None:
    folder = root / "data" / DATA
    _artifact(folder, {}, {})
    (folder / "images").mkdir(exist_ok=True)
    for i in range(PICTURES):
        (folder / "images" / f"{i}.png").write_bytes(png(i, side))
    (folder / "train.json").write_text(json.dumps([_row(i) for i in range(rows)]))
    for name in BENCHMARKS:
        (folder / "benchmarks" / name).mkdir(parents=True, exist_ok=True)
        table = {
            "question_id": [str(i) for i in range(samples)],
            "image": [{"bytes": png(i, side), "path": ""} for i in range(samples)],
        }
        pd.DataFrame(table).to_parquet(folder / "benchmarks" / name / "test.parquet")


def _row(i: int, more: str = "") -> dict[str, Any]:
    said = [
        {"from": "human", "value": f"<image>\nwhat is in row {i}?"},
        {"from": "gpt", "value": f"thing {i} {more}".strip()},
    ]
    return {"id": str(i), "image": f"{i % PICTURES}.png", "conversations": said}


def png(i: int, side: int) -> bytes:
    """A picture of one colour; a large one is noisy, as photographs are."""
    out = io.BytesIO()
    colour = (37 * i % 256, 91 * i % 256, 53 * i % 256)
    picture = Image.new("RGB", (side, side), colour)
    if side > 64:
        noise = np.random.default_rng(i).integers(0, 256, (side, side, 3), dtype=np.uint8)
        picture = Image.blend(picture, Image.fromarray(noise), 0.3)
    picture.save(out, "PNG", compress_level=1)
    return out.getvalue()
