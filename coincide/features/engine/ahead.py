"""Read, decode and encode rows ahead of the model, in separate processes."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from coincide.schema import Example, UserError
from coincide.system.processes import die_with_parent

AHEAD = 64
"""Most tasks in progress or finished but not yet taken; this bounds the memory."""

Ordered = Callable[[Iterable[Any]], Iterator[Any]]
"""Maps tasks to their results, in the order of the tasks."""

_work: Callable[[Any], Any] | None = None
"""In a decoding process: the function applied to each task. Inherited by fork, never pickled."""


@contextmanager
def decoding(work: Callable[[Any], Any], workers: int) -> Iterator[Ordered]:
    """A function that maps ``work`` over tasks in order, in ``workers`` processes.

    0 workers: in this process, one task at a time, when its result is asked for. The processes are
    forked before the model is loaded, so ``work`` and the dataset in it are shared with them.
    Results travel through pipes and should hold numpy arrays, not tensors.
    """
    if not workers:
        yield lambda tasks: map(work, tasks)
        return
    pool = ProcessPoolExecutor(
        workers,
        multiprocessing.get_context("fork"),
        initializer=_begin,
        initargs=(work, os.getpid()),
    )
    try:
        pool.submit(_begun).result()  # all processes start with the first task
        yield lambda tasks: _ordered(pool, tasks)
    finally:
        pool.shutdown(cancel_futures=True)


def _ordered(pool: ProcessPoolExecutor, tasks: Iterable[Any]) -> Iterator[Any]:
    waiting: deque[Future[Any]] = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(_do, task))
            if len(waiting) >= AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise UserError(
            "a decoding process was killed, most likely for want of memory. Set a lower "
            "features.decode_workers; the pass resumes at the shard it was at."
        ) from error


def _begin(work: Callable[[Any], Any], parent: int) -> None:
    global _work
    die_with_parent()
    if os.getppid() != parent:
        os._exit(1)  # it was killed before that line
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads do not survive a fork
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)
    else:  # should the work import it
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    _work = work


def _begun() -> None:
    """A task that does nothing: its return shows that a process of the pool has started."""


def _do(task: Any) -> Any:
    assert _work is not None
    return _work(task)


def groups_by_image(examples: Sequence[Example]) -> list[list[int]]:
    """Indices of ``examples`` in groups; rows that share an image are in the same group.

    The longest groups come first (by number of images, then of characters), so that batches hold
    rows of similar length.
    """
    owner: dict[str, int] = {}
    groups: dict[int, list[int]] = {}
    for index, example in enumerate(examples):
        joined = sorted({owner[name] for name in example.images if name in owner})
        groups[index] = [i for group in joined for i in groups.pop(group)] + [index]
        owner.update((name, index) for i in groups[index] for name in examples[i].images)
    weights = [(len(e.images), sum(len(turn.text) for turn in e.turns)) for e in examples]

    def place(index: int) -> tuple[int, int, int]:
        images, characters = weights[index]
        return -images, -characters, index

    ordered = [sorted(group, key=place) for group in groups.values()]
    return sorted(ordered, key=lambda group: place(group[0]))
