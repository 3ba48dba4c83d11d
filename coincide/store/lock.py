"""File locks, so that a process that waits for an artifact does not have to poll.

They only make waiting cheap. If a file system has no locks, or each node its own, the attempts
themselves (``coincide.store.attempts``) keep processes apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from filelock import Timeout

from coincide.errors import UserError
from coincide.store.step import Step
from coincide.system import disk
from coincide.system.processes import locked

if TYPE_CHECKING:
    from coincide.store.store import Store

FOLDER = ".locks"


@contextmanager
def lock(store: Store, step: Step) -> Iterator[bool]:
    """Hold the lock of ``step`` in ``store``; yields False if the file system has no locks.

    Raises UserError if it is not free within ``store.lock_timeout`` seconds, or if the store cannot
    be written.
    """
    folder = store.root / FOLDER
    waiting = f"waiting for another process that builds {step.folder}"
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{step.kind}-{step.digits}.lock"
            held = stack.enter_context(locked(path, store.lock_timeout, waiting))
        except Timeout as error:
            raise UserError(
                f"{step.folder} has been locked by another process for {store.lock_timeout:.0f} s. "
                f"Stop that process, or wait for it."
            ) from error
        except OSError as error:
            if disk.is_full(error) or disk.is_read_only(error):
                raise store.as_disk_error(error, [step]) from error
            held = False
        yield held
