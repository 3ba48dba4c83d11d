"""Load lmms-eval's task objects for benchmark jobs, over the data files that each job names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from lmms_eval.api.task import ConfigurableTask, Task
from lmms_eval.tasks import TaskManager
from lmms_eval.utils import load_yaml_config

from coincide.data.images import CorruptImage
from coincide.schema import UserError
from eval import parquet, taskfile
from eval.decoding import Decoding
from eval.documents import TaskDocuments, naming_document, root_error
from eval.pictures import decode_by_one_rule
from eval.request import BenchmarkJob
from eval.sample import chosen_documents, columns


def load_tasks(jobs: Sequence[BenchmarkJob], folder: Path) -> tuple[TaskManager, dict[str, Task]]:
    """As :func:`load_each`; raises the UserError of the first benchmark that does not load."""
    manager, tasks, failed = load_each(jobs, folder)
    for error in failed.values():
        raise error
    return manager, tasks


def load_each(
    jobs: Sequence[BenchmarkJob], folder: Path
) -> tuple[TaskManager, dict[str, Task], dict[str, UserError]]:
    """The manager, the task of every job by the job's name, its dataset loaded, and, of those that
    do not load, why, naming the benchmark.

    Each is an overlay: a YAML in ``folder`` that includes the task's own, and says where its data
    are and how its answers are generated.
    """
    decode_by_one_rule()
    fail_at_once()
    folder.mkdir(parents=True, exist_ok=True)
    tasks: dict[str, Task] = {}
    failed: dict[str, UserError] = {}

    def attempt(job: BenchmarkJob, make: Callable[[BenchmarkJob], None]) -> None:
        try:
            make(job)
        except Exception as error:
            failed[job.name] = _failure(job, root_error(error))

    def write(job: BenchmarkJob) -> None:
        _write_overlay(job, _source(job), folder / f"{job.name}.yaml")

    def load(job: BenchmarkJob) -> None:
        tasks[job.name] = _load(job, manager)

    for stale in folder.glob("*.yaml"):
        stale.unlink()
    for job in jobs:
        attempt(job, write)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    for job in jobs:
        if job.name not in failed:
            attempt(job, load)
    return manager, tasks, failed


def fail_at_once() -> None:
    """Take from lmms-eval's tasks their retries: what fails to load or to score a document is
    called five times in eight seconds, and nothing here passes with time.
    """
    for name in ("download", "process_results"):
        method = getattr(ConfigurableTask, name)
        setattr(ConfigurableTask, name, getattr(method, "__wrapped__", method))


def _failure(job: BenchmarkJob, cause: BaseException) -> UserError:
    """Why the job does not load, by its name; lmms-eval then looks at the first document alone."""
    named, said = f"benchmark {job.name}", f"{type(cause).__name__}: {cause}"
    if isinstance(cause, UserError):
        if str(cause).startswith(named):
            return cause
        said = f"row 0: {cause}" if isinstance(cause, CorruptImage) else str(cause)
    if isinstance(cause, KeyError):
        said += "".join(f"; {path} has the columns {', '.join(parquet.columns(Path(path)))}"
                        for path in job.data_files.values())  # fmt: skip
    found = UserError(f"{named} does not load: {said}")
    found.__cause__ = cause
    return found


def _source(job: BenchmarkJob) -> Path:
    """The YAML of the job's task: in its own folder by the name of the file, or lmms-eval's."""
    if job.tasks_dir:
        path = Path(job.tasks_dir).absolute() / f"{job.task}.yaml"
        kind = _kind(taskfile.settings(path)) if path.is_file() else "no task"
    else:
        found = _own_tasks().get(job.task, {})
        path, kind = Path(found.get("yaml_path", "")), found.get("type", "no task")
    if kind != "task":
        raise UserError(
            f"benchmark {job.name}: {job.task!r} is {kind} of {job.tasks_dir or 'lmms-eval'}; "
            "expected the name of a single task."
        )
    return path.absolute()


def _kind(settings: Mapping[str, Any]) -> str:
    """What a YAML is, in lmms-eval's words."""
    if "class" in settings:
        return "python_task"
    return "group" if isinstance(settings.get("task"), list) else "task"


@cache
def _own_tasks() -> Mapping[str, Mapping[str, Any]]:
    """lmms-eval's own tasks by name, which takes 4 s to read."""
    index: Mapping[str, Mapping[str, Any]] = TaskManager().task_index
    return index


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
    for path in map(Path, job.data_files.values()):
        why = parquet.footer_fault(path) or ("" if parquet.rows(path) else "holds no rows")
        if why:
            raise UserError(f"benchmark {job.name}: {path} {why}.")
    loaded: Mapping[str, Task] = manager.load_task_or_group([job.name], task_type="chat")
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


def answered_protocol(protocol: str, engine: str) -> str:
    """``protocol`` with the engine that gave the answers, where it states one."""
    told = protocol.split("; ")
    if engine == "plain":
        told = ["engine=plain" if each.startswith("engine=") else each for each in told]
    return "; ".join(told)


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
