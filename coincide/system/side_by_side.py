"""Independent tasks in several processes; their number changes neither results nor messages."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stdout
from functools import partial
from multiprocessing import get_context
from typing import TypeVar

from threadpoolctl import threadpool_limits

from coincide.system.processes import available_cores

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def map_processes(
    work: Callable[[_Item], _Result], items: Sequence[_Item], processes: int
) -> list[_Result]:
    """``work(item)`` for every item, in their order, in up to ``processes`` fresh processes.

    ``work`` and ``items`` have to be picklable: nothing is forked, since whoever calls may have
    threads. What a task prints is printed here, in the order of the items, and each line once. All
    is done in this process where one would be enough, and where a process was killed (as one that
    needs too much memory is), which is said. What a task raises is raised here.
    """
    count = min(processes, len(items))
    if count > 1:
        try:
            with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
                threads = max(1, available_cores() // count)
                heard = partial(_heard, work, threads)
                found = list(pool.map(heard, items))
        except BrokenProcessPool:
            print(
                f"One of {count} processes was killed, as the system does when memory is short: "
                "all is done again in this one.",
                flush=True,
            )
        else:
            for line in dict.fromkeys(line for _, said in found for line in said.splitlines()):
                print(line, flush=True)
            return [result for result, _ in found]
    return [work(item) for item in items]


def _heard(work: Callable[[_Item], _Result], threads: int, item: _Item) -> tuple[_Result, str]:
    """The result, and what was printed for it.

    Of the libraries that are loaded, each uses ``threads`` threads at most: more than there are
    cores for all processes wait for each other, which doubled the time of both.
    """
    said = io.StringIO()
    with redirect_stdout(said), threadpool_limits(threads):
        result = work(item)
    return result, said.getvalue()
