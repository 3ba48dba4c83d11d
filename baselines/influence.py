"""Common part of methods that select by gradients: the warm-up, and the influence on target tasks.

The influence of a row on a task is the mean, over the task's target rows, of the cosine of the
gradients: to step along the row's gradient lowers the task's loss by that much. The mean of
products is the product with the mean, so that a task costs one product, not one for each of its
rows. Tasks are the sources of the target rows; of a source ``task/part`` the parts are subtasks,
and the row counts by the best of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from baselines.full import Full
from baselines.uniform import Random
from coincide.ops.products import as_float64, products
from coincide.schema import SubsetOf, TargetRows, UserError, WarmUp

BLOCK = 4096
"""Rows whose products are in memory at once."""
SEED = 1234
"""Of a warm-up's rows and finetuning; a seed of its own, so that runs share it."""


def warm_up(
    share: float, at: Sequence[float], recipe: Mapping[str, Any] | None, *, method: Any = None
) -> WarmUp:
    """A warm-up on ``share`` of the pool, chosen by ``method`` (at random; all rows for 1.0), kept
    after the shares ``at`` of the pool's rows.
    """
    fields = tuple(sorted((recipe or {}).items()))
    if share == 1.0:
        subset = SubsetOf(Full(), seed=SEED)
    else:
        subset = SubsetOf(method or Random(), of_pool=share, seed=SEED)
    return WarmUp(subset, tuple(at), fields)


def check_share(method: str, **fields: float) -> None:
    """Raise UserError, naming method and field, unless all numbers are in (0, 1]."""
    for field, value in fields.items():
        if isinstance(value, bool) or not 0 < value <= 1:
            raise UserError(f"method.{field}: got {value!r} for {method}; expected 0 < x <= 1")


def task_means(found: TargetRows, method: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names of the tasks [T], the mean value float64 [S, D] of each subtask's usable target rows,
    and the task int [S] of each subtask.

    Raises UserError if no target row is usable.
    """
    usable = np.flatnonzero(found.usable)
    if not len(usable):
        raise UserError(
            f"method {method}: none of the {len(found.examples):,} target rows has a gradient. "
            "Look at what the data's policies dropped of targets=..., or give others."
        )
    parts = [found.examples[i].source for i in usable.tolist()]
    subtasks = sorted(set(parts))
    tasks = sorted({name.split("/")[0] for name in subtasks})
    values = as_float64(np.asarray(found.values[usable]))
    mine = np.array([subtasks.index(part) for part in parts])
    means = np.stack([values[mine == number].mean(axis=0) for number in range(len(subtasks))])
    return tasks, means, np.array([tasks.index(name.split("/")[0]) for name in subtasks])


def influences(x: Any, rows: np.ndarray, means: np.ndarray, tasks: np.ndarray) -> np.ndarray:
    """float64 [n, T]: the product of each of ``rows`` of ``x`` [N, D] with ``means`` [S, D] of the
    subtasks, the largest over those of each task; ``tasks`` int [S].
    """
    count = int(tasks.max()) + 1
    found = np.full((len(rows), count), -np.inf)
    for start in range(0, len(rows), BLOCK):
        values = products(as_float64(x[rows[start : start + BLOCK]]), means)
        for subtask, task in enumerate(tasks.tolist()):
            here = found[start : start + BLOCK, task]
            np.maximum(here, values[:, subtask], out=here)
    return found
