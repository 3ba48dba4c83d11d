"""Pieces of work on several threads, whose number never shows in the answer.

Matrix products may round differently on one thread than on two. Here every piece runs on one thread
from beginning to end, and it is pieces that run side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_threads(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int | None = None
) -> list[Result]:
    """``work`` of every item, in their order, on ``threads`` threads (as many as torch uses)."""
    import torch

    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads or before, initializer=torch.set_num_threads, initargs=(1,))
    try:
        return list(pool.map(work, items))
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)
