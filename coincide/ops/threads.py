"""Independent tasks on several threads; the number of threads does not change any result.

Matrix products may round differently with two threads than with one. Here each task runs on a
single thread from beginning to end, and several tasks run in parallel. The threads are kept: each
new one would make torch's and MKL's buffers anew, which costs as much as a product of a tile.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_pools: dict[int, ThreadPoolExecutor] = {}
_lock = threading.Lock()
_here = threading.local()


def map_threads(
    work: Callable[[_Item], _Result], items: Iterable[_Item], threads: int | None = None
) -> list[_Result]:
    """``work(item)`` for every item, in their order, on ``threads`` threads (default: torch's
    number).

    A task that calls this does the inner tasks itself, one after another.
    """
    import torch

    count = threads or torch.get_num_threads()
    if getattr(_here, "is_worker", False) or count == torch.get_num_threads() == 1:
        return [work(item) for item in items]
    pool = _pool(count)
    futures = [pool.submit(work, item) for item in items]
    try:
        return [future.result() for future in futures]
    finally:
        for future in futures:
            future.cancel()
        wait(futures)


@contextmanager
def one_thread() -> Iterator[int]:
    """Let torch's operations take one thread; gives the number they had, which comes back.

    torch's other threads spin for milliseconds after an operation and would hold up those of
    :func:`map_threads`, which has to be told the number here.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield before
    finally:
        torch.set_num_threads(before)


def _pool(count: int) -> ThreadPoolExecutor:
    """The ``count`` threads that are kept, each with one thread for torch's operations."""
    import torch

    with _lock:
        if count not in _pools:
            before = torch.get_num_threads()
            pool = ThreadPoolExecutor(count, initializer=_begin)
            # torch notes the last number set for threads to come: all begin before it is restored
            together = threading.Barrier(count)
            wait([pool.submit(together.wait) for _ in range(count)])
            torch.set_num_threads(before)
            _pools[count] = pool
        return _pools[count]


def _begin() -> None:
    import torch

    _here.is_worker = True
    torch.set_num_threads(1)
    torch.get_num_threads()  # a thread's first look takes the number last set by any


def _forget() -> None:
    """A forked process has none of its parent's threads."""
    global _lock
    _lock = threading.Lock()
    _pools.clear()
    _here.is_worker = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
