"""A check before training: one document of each kind goes through its task, without the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from coincide.schema import UserError
from eval.documents import TaskDocuments
from eval.messages import turns_and_pictures
from eval.request import BenchmarkJob

MOST = 64
"""Most documents of a benchmark that are tried."""


def examine(task: Any, job: BenchmarkJob) -> None:
    """For the first document of each kind (:func:`kinds`): ask, and score an answer.

    Raises UserError, naming the document, if the task cannot use it: a column is missing, empty or
    of another type, or a picture is missing or does not decode.
    """
    _check_target(task, job)
    documents = task.dataset[task.config.test_split or task.config.validation_split]
    for at in kinds(documents):
        turns_and_pictures(task.doc_to_messages(documents[at]))
        target = task.doc_to_target(documents[at])
        if not job.judged:
            task.process_results(documents[at], [target if isinstance(target, str) else "yes"])


def _check_target(task: Any, job: BenchmarkJob) -> None:
    """Raises UserError if the target would be the name of a column that does not exist."""
    named, has = task.config.doc_to_target, task.eval_docs.column_names
    literal = isinstance(named, str) and named.isidentifier() and named not in has
    if literal and not callable(task.config.process_results):
        raise UserError(
            f"benchmark {job.name}: its doc_to_target is {named!r}, which is no column; there are "
            f"{', '.join(has)}."
        )


def kinds(documents: TaskDocuments) -> list[int]:
    """Index of the first document of each kind: documents with values in the same columns.

    A column holds a value, an empty text or list, or nothing.
    """
    table = documents.table
    codes = np.zeros(len(table), dtype=np.int64)
    for name in table.column_names:
        codes = np.unique(codes * 3 + _states(table, name), return_inverse=True)[1]
    return sorted(np.unique(codes, return_index=True)[1].tolist())[:MOST]


def _states(table: Any, name: str) -> np.ndarray:
    """int64 [n]: per document 0 for a value in column ``name``, 1 for an empty one, 2 for none."""
    parts = table.select_columns([name]).with_format("arrow").iter(batch_size=1000)
    return np.concatenate([_state(part.column(name)) for part in parts])


def _state(column: Any) -> np.ndarray:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind, empty = column.type, None
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        empty = pc.equal(pc.binary_length(column), 0)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        empty = pc.equal(pc.list_value_length(column), 0)
    missing = _bools(pc.is_null(column))
    if pa.types.is_struct(kind) and {"bytes", "path"} == {field.name for field in kind}:
        inside = [pc.is_null(pc.struct_field(column, name)) for name in ("bytes", "path")]
        missing = missing | (_bools(inside[0]) & _bools(inside[1]))
    void = np.zeros(len(column), bool) if empty is None else _bools(pc.fill_null(empty, False))
    return np.where(missing, 2, void.astype(np.int64))


def _bools(column: Any) -> np.ndarray:
    values: Sequence[bool] = column.to_pylist()
    return np.asarray(values, dtype=bool)
