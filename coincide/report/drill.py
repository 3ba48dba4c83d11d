"""Samples of a panel for the page: question, picture, target, and each run's answer.

A limited number per benchmark, those on which the runs differ most first. Only samples that are
shown are read in full; the scores of all samples are read as columns.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from coincide.ledger.evidence import ArtifactShelf, Samples
from coincide.report.notes import primary
from coincide.report.pairs import common_documents
from coincide.report.pictures import Budget, benchmark_pictures
from coincide.report.records import Panel
from coincide.report.scoring import LENIENT
from coincide.report.tables import percent, share
from coincide.terminal.inert import printable

if TYPE_CHECKING:
    from coincide.ledger.result import Result

SHOWN = 24
"""Samples shown per benchmark."""
LETTERS = 500
"""Most characters of a question, target or answer."""
SIDE = 240


def drill(panel: Panel, shelf: ArtifactShelf, budget: Budget) -> dict[str, Any]:
    """What the page needs to compare two runs side by side; JSON.

    ``runs``: labels; ``rows``: index of each run's row in the table. ``benchmarks``: name, number
    of samples, ``absent`` (run -> why it has no samples here), ``no_pictures``, ``told`` (sentences
    on how it was asked and read), and ``samples`` with, per run, an answer, what it was read as
    (empty: not known, or equal to the answer) and a score (None: none).
    """
    runs = [(row.label, run) for row in panel.rows for run in row.runs]
    labels = [
        f"{row.label}, {percent(row.budget)}, seed {run.seed}"
        for row in panel.rows
        for run in row.runs
    ]
    rows = [i for i, row in enumerate(panel.rows) for _ in row.runs]
    shown = [_benchmark(column.name, [r for _, r in runs], shelf) for column in panel.columns]
    found = [one for one in shown if one["samples"]]
    for one in found:
        share = Budget(budget.left // len(found))
        _add_pictures(one, [run for _, run in runs], shelf, share)
    return printable({"runs": labels, "rows": rows, "benchmarks": shown}, keep="\n")


def _benchmark(name: str, runs: Sequence[Result], shelf: ArtifactShelf) -> dict[str, Any]:
    have, absent = {}, {}
    for i, run in enumerate(runs):
        file = shelf.samples(run, name)
        if file is None:
            absent[i] = "its samples are not in this store"
        elif not len(file.numbers["doc_id"]):
            absent[i] = "it has no samples with a score"
        else:
            have[i] = file
    about = {
        "name": name, "absent": absent, "all": 0, "differ": 0, "no_pictures": "",
        "told": _told(name, runs, shelf),
    }  # fmt: skip
    if not have:
        return {**about, "samples": []}
    documents, scores = _matrix(list(have.values()))
    order = np.lexsort((documents, -scores.var(axis=0)))[:SHOWN]
    chosen = documents[order].tolist()
    texts = {i: file.texts(chosen) for i, file in have.items()}
    samples = [
        _sample(
            document,
            len(runs),
            texts,
            dict(zip(have, scores[:, place].tolist(), strict=True)),
            shelf.scoring,
        )
        for document, place in zip(chosen, order, strict=True)
    ]
    differ = int((scores.max(axis=0) > scores.min(axis=0)).sum())
    return {**about, "all": len(documents), "differ": differ, "samples": samples}


def _matrix(files: Sequence[Samples]) -> tuple[np.ndarray, np.ndarray]:
    """Documents [n] that every run has a score for, and the scores [R, n]."""
    shared = common_documents([file.numbers for file in files])
    rows = [
        file.numbers["score"][np.searchsorted(file.numbers["doc_id"], shared)] for file in files
    ]
    return shared, np.stack(rows)


def _sample(
    document: int,
    runs: int,
    texts: Mapping[int, Mapping[int, Mapping[str, Any]]],
    scores: Mapping[int, float],
    scoring: str,
) -> dict[str, Any]:
    records = {i: found[document] for i, found in texts.items() if document in found}
    first: Mapping[str, Any] = next(iter(records.values()), {})
    return {
        "doc": document,
        "question": _brief(first.get("question")),
        "target": _brief(first.get("target")),
        "category": _brief(first.get("category")),
        "question_id": _brief(first.get("question_id")),
        "answers": [
            _brief(records[i].get("answer")) if i in records else None for i in range(runs)
        ],
        "read": [_read(records.get(i, {}), scoring) for i in range(runs)],
        "scores": [_rounded(scores.get(i)) for i in range(runs)],
        "moved": bool(first.get("pictures_moved")),
        "picture": "",
    }


def _read(record: Mapping[str, Any], scoring: str) -> str:
    """What the reply was taken for, or that it could not be read; empty where that is not known,
    and where it is the reply as it stands.
    """
    key = "lenient_as" if scoring == LENIENT else "read_as"
    if key not in record:
        return ""
    said = record[key]
    if said is None:
        why = record.get("unreadable") if scoring != LENIENT else None
        return f"unreadable ({_brief(why)})" if why else "unreadable"
    return "" if said == str(record.get("answer", "")).strip() else f"read as {_brief(said)}"


def _told(name: str, runs: Sequence[Result], shelf: ArtifactShelf) -> list[str]:
    """Sentences on replies that could not be read and on pictures that were asked in another order
    than the question names them.
    """
    shares = {i: found for i, run in enumerate(runs) if (found := _readable(run, name)) is not None}
    few = {i: found for i, found in shares.items() if found < 1}
    worst = min(few, key=lambda i: few[i], default=None)
    read = f"Replies that could be read: {share(few[worst])} at least" if worst is not None else ""
    all_read = "All replies could be read" if shares and not few else ""
    counts = (_moved(shelf, run, name) for run in runs)
    moved = next((said for said in counts if said), "")
    return [f"{said}." for said in (read, all_read, moved) if said]


def _readable(run: Result, benchmark: str) -> float | None:
    score = primary(run).get(benchmark)
    return score.readable if score else None


def _moved(shelf: ArtifactShelf, run: Result, benchmark: str) -> str:
    folder = shelf.evaluation(run, benchmark)
    path = shelf.file(folder, "result.json") if folder else None
    try:
        record = json.loads(path.read_text(encoding="utf-8")) if path else {}
    except ValueError:
        return ""
    count = record.get("pictures_moved") if isinstance(record, dict) else None
    return (
        f"{count:,} of {record.get('n', 0):,} questions name their pictures out of order or twice, "
        "and were shown them in the order of their numbers"
        if isinstance(count, int) and count
        else ""
    )


def _add_pictures(
    one: dict[str, Any], runs: Sequence[Result], shelf: ArtifactShelf, budget: Budget
) -> None:
    documents = {sample["doc"]: sample for sample in one["samples"]}
    for run in runs:
        found, one["no_pictures"] = benchmark_pictures(shelf, run, one["name"], documents)
        if found:
            break
    for document, sample in documents.items():
        sample["picture"] = budget.uri(next(iter(found.get(document, ())), None), SIDE)


def _brief(value: Any) -> str:
    if value is None:
        return ""
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= LETTERS else f"{text[:LETTERS]}…"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 3)
