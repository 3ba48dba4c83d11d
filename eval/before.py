"""Before hours are spent: documents of the benchmarks are tried, with lmms-eval and no model.

The demo's tasks are this project's, so what they read of a document is known; a look at their files
takes the place of lmms-eval, whose import takes seconds.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from coincide.schema import UserError
from coincide.store import Step, Store
from coincide.system.files import digest_of, write_json
from eval.process import follow
from eval.request import EvaluationRequest
from eval.stage import Evaluation, file_of, folder_of, job_of

KNOWN_TASKS = "demo"
"""``tasks_dir`` of the benchmarks whose columns :mod:`eval.columns` knows."""


def examine(store: Store, steps: Sequence[Step]) -> None:
    """Try documents of what the missing ones of ``steps`` would ask, as far as it is here already.

    What was found sound is remembered with the store. Raises UserError, naming benchmark and
    document, for all that are not.
    """
    todo = {name: step for step in steps if (name := _name(store, step))}
    wrong: list[str] = []
    for name, step in todo.items():
        evaluation = _evaluation(step)
        try:
            _try(store, step, evaluation, name)
        except UserError as error:
            wrong.append(str(error))
        else:
            seen = _seen(store, name)
            seen.parent.mkdir(parents=True, exist_ok=True)
            write_json(seen, {"benchmark": evaluation.benchmark.name})
    if wrong:
        raise UserError("\n\n".join(wrong))


def _name(store: Store, step: Step) -> str:
    """What tells the documents of ``step`` and their task from others; empty: nothing to try."""
    evaluation = _evaluation(step)
    measured, data = evaluation.benchmark, [n.key for n in step.needs if n.kind == "data"]
    name = digest_of([step.config, data])[:16]
    absent = bool(measured.data) and store.find(step.needs[-1]) is None
    skip = absent or evaluation.suite.left_out(measured) or _seen(store, name).is_file()
    return "" if skip or store.find(step) else name


def _seen(store: Store, name: str) -> Path:
    return store.root / ".cache" / "examined" / f"{name}.json"


def _evaluation(step: Step) -> Evaluation:
    assert isinstance(step.build, Evaluation)
    return step.build


def _try(store: Store, step: Step, evaluation: Evaluation, name: str) -> None:
    measured = evaluation.benchmark
    files: dict[str, str] = {}
    if measured.data:
        data = store.verify(step.needs[-1], *measured.data.values()).path
        files = {split: file_of(data, path, measured) for split, path in measured.data.items()}
    if measured.data and measured.tasks_dir == KNOWN_TASKS:
        from eval.columns import check

        for path in files.values():
            check(Path(path), measured.name)
        return
    run = store.root / ".runs" / f"examine-{name}-{os.getpid()}"
    _in_process(evaluation, files, run, store.root / ".cache")


def _in_process(evaluation: Evaluation, files: Mapping[str, str], run: Path, cache: Path) -> None:
    (run / "out").mkdir(parents=True, exist_ok=True)
    folder = folder_of(evaluation, cache)
    job = job_of(evaluation, run / "out", files)
    suite = evaluation.suite
    EvaluationRequest(
        "", None, evaluation.template, suite.dtype, "cpu", 1, suite.threads,
        str(folder or cache), (job,), suite.judge, examine=True,
    ).write(run / "request.json")  # fmt: skip
    list(follow(run, [job.name], folder=folder))
    shutil.rmtree(run)
