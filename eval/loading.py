"""Load lmms-eval's task objects for benchmark jobs, over the data files that each job names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from lmms_eval.api.task import Task
from lmms_eval.tasks import TaskManager
from lmms_eval.utils import load_yaml_config

from coincide.schema import UserError
from eval.documents import TaskDocuments, naming_document, root_error
from eval.model import Decoding
from eval.pictures import decode_by_one_rule
from eval.request import BenchmarkJob
from eval.sample import chosen_documents, columns


def load_tasks(jobs: Sequence[BenchmarkJob], folder: Path) -> tuple[TaskManager, dict[str, Task]]:
    """Job name -> task with its dataset loaded, and the manager that knows the tasks.

    If the job sets the data or the generation settings, the task is loaded through an overlay: a
    YAML in ``folder`` that includes the task's own. Raises UserError, naming the benchmark that
    fails.
    """
    decode_by_one_rule()
    known = _index(jobs)
    folder.mkdir(parents=True, exist_ok=True)
    for job in jobs:
        _write_overlay(job, known[job.task], folder / f"{job.name}.yaml")
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    return manager, {job.name: _load(job, manager) for job in jobs}


def _index(jobs: Sequence[BenchmarkJob]) -> dict[str, Path]:
    """Task name -> YAML. lmms-eval's own tasks (4 s to index) are only read if one of them is
    asked.
    """
    own = sorted({job.tasks_dir for job in jobs if job.tasks_dir})
    stock = any(job.tasks_dir is None for job in jobs)
    index = TaskManager(include_path=own, include_defaults=stock).task_index
    for job in jobs:
        kind = index.get(job.task, {}).get("type")
        if kind != "task":
            where = job.tasks_dir or "lmms-eval"
            raise UserError(
                f"benchmark {job.name}: {job.task!r} is {kind or 'no task'} of {where}; expected "
                "the name of a single task."
            )
    return {job.task: Path(index[job.task]["yaml_path"]).absolute() for job in jobs}


def _write_overlay(job: BenchmarkJob, source: Path, path: Path) -> None:
    include = [*([job.overlay] if job.overlay else []), str(source)]  # the first one wins
    overlay: dict[str, Any] = {"include": include, "task": job.name}
    if job.data_files:
        overlay |= {
            "dataset_path": "parquet",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": dict(job.data_files)},
        }
    overlay["generation_kwargs"] = _generation(job, include, path.parent)
    path.write_text(yaml.safe_dump(overlay, sort_keys=False), encoding="utf-8")


def _generation(job: BenchmarkJob, include: Sequence[str], folder: Path) -> dict[str, Any]:
    """The generation settings of the task's own files, or those of the job if it has any.

    lmms-eval ends the answers of a task without stop texts at the first blank line; here such an
    answer ends where the model ends it.
    """
    written = load_yaml_config(
        yaml_config={"include": list(include)}, yaml_dir=str(folder), mode="simple"
    )
    settings = dict(job.generation or written.get("generation_kwargs") or {})
    return {"until": [], **settings}


def _load(job: BenchmarkJob, manager: TaskManager) -> Task:
    missing = [path for path in job.data_files.values() if not Path(path).is_file()]
    if missing:
        raise UserError(f"benchmark {job.name}: no such file: {', '.join(missing)}.")
    try:
        loaded: Mapping[str, Task] = manager.load_task_or_group([job.name], task_type="chat")
    except Exception as error:
        cause = root_error(error)
        raise UserError(
            f"benchmark {job.name} does not load: {type(cause).__name__}: {cause}"
        ) from cause
    task = loaded[job.name]
    _check_decoding(task, job)
    _select(task, job)
    task.doc_to_messages = naming_document(task.doc_to_messages, job.name, "asking")
    task.doc_to_text = naming_document(task.doc_to_text, job.name, "asking")
    task.doc_to_target = naming_document(task.doc_to_target, job.name, "reading the answer")
    task.process_results = naming_document(task.process_results, job.name, "scoring")
    return task


def stated_protocol(task: Task, job: BenchmarkJob) -> str:
    """The job's protocol; if it states no stop texts, those of the task are added."""
    stop = Decoding.from_settings(task.config.generation_kwargs).until
    if job.stop is not None or not stop:
        return job.protocol
    return f"{job.protocol}; stop={' or '.join(map(repr, stop))}".removeprefix("; ")


def _check_decoding(task: Task, job: BenchmarkJob) -> None:
    """Raises UserError where the protocol states other stop texts or lengths than the task has."""
    found = Decoding.from_settings(task.config.generation_kwargs)
    has = {"stop": list(found.until), "tokens": found.max_new_tokens}
    stated = {"stop": None if job.stop is None else list(job.stop), "tokens": job.tokens}
    wrong = {k: v for k, v in stated.items() if v is not None and v != has[k]}
    if wrong:
        raise UserError(
            f"benchmark {job.name}: its protocol states {wrong}, and task {job.task} as installed "
            f"has { ({k: has[k] for k in wrong}) }. Correct conf/benchmark, or set generation=..."
        )


def _select(task: Task, job: BenchmarkJob) -> None:
    """Keep only the documents that the job asks for, as :class:`TaskDocuments`."""
    split = task.config.test_split or task.config.validation_split
    documents = task.dataset_no_image[split]
    indices = _indices(documents, job)
    if indices == []:
        raise UserError(f"benchmark {job.name}: no document has {dict(job.where)}.")
    for tables in (task.dataset, task.dataset_no_image):
        kept = tables[split] if indices is None else tables[split].select(indices)
        tables[split] = TaskDocuments(kept, job.name, indices)


def _indices(documents: Any, job: BenchmarkJob) -> list[int] | None:
    """Indices of the documents that the job asks for; None: all."""
    wanted = columns(job.where, job.subsample, job.parts, job.limit)
    if not wanted and job.subsample is None and job.limit is None:
        return None
    try:
        rows = documents.select_columns(wanted).to_list() if wanted else [{}] * len(documents)
    except ValueError as error:
        raise UserError(
            f"benchmark {job.name}: its documents lack one of {', '.join(wanted)}; they have "
            f"{', '.join(documents.column_names)}."
        ) from error
    return chosen_documents(rows, job.where, job.subsample, job.parts, job.limit)
