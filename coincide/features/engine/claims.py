"""Claims on shards: which process, on any node, computes which shard.

A claim is a file, created only where there is none. Its holder touches it every few seconds. A
claim is void, and may be taken by another process, once nobody has touched it for a while or its
process on this machine has ended. Claims only save work: two workers that compute the same shard
write the same bytes.
"""

from __future__ import annotations

import json
import os
import threading
import uuid
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from coincide.system.files import file_system_time, read_cache
from coincide.system.processes import parse_process, this_process

LEASE = 60.0
"""Seconds without a touch after which a claim is void."""


class Claims:
    """The claims of this process, files in ``folder``; kept alive while the context is open."""

    def __init__(self, folder: Path, *, lease: float = LEASE) -> None:
        self.folder = folder
        self.lease = lease
        self._held: set[Path] = set()
        self._ended = threading.Event()

    def __enter__(self) -> Claims:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._toucher = threading.Thread(target=self._keep, daemon=True)
        self._toucher.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._toucher.join()
        for path in list(self._held):
            self.release(path.name)

    def take(self, name: str) -> bool:
        """Claim ``name``; False while another living process holds it."""
        path = self.folder / name
        if self._create(path):
            return True
        if not self.void(name):
            return False
        aside = path.with_name(f".void-{uuid.uuid4().hex[:8]}")
        with suppress(FileNotFoundError):
            os.rename(path, aside)  # of several who try, one succeeds
            aside.unlink()
        return self._create(path)

    def release(self, name: str) -> None:
        """Give up the claim ``name``."""
        self._held.discard(self.folder / name)
        with suppress(FileNotFoundError):
            (self.folder / name).unlink()

    def void(self, name: str) -> bool:
        """Whether no living process holds ``name``."""
        path = self.folder / name
        try:
            touched = path.stat().st_mtime
        except FileNotFoundError:
            return True
        holder = parse_process(str(read_cache(path).get("holder")))  # none: it is being written
        dead = holder is not None and holder.alive is False
        return dead or file_system_time(self.folder) - touched > self.lease

    def whose(self, name: str) -> str:
        """In words: which process holds ``name``, and how long it is waited for."""
        holder = parse_process(str(read_cache(self.folder / name).get("holder")))
        if holder is None:
            return f"another process (for {self.lease:.0f} s, should it stay silent)"
        if holder.here:
            return f"process {holder.pid} on this machine"
        silent = f"for {self.lease:.0f} s, should it stay silent"
        return f"process {holder.pid} on {holder.host} ({silent})"

    def _create(self, path: Path) -> bool:
        record = json.dumps({"holder": str(this_process())})
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except (FileExistsError, FileNotFoundError):  # held, or the pass is over
            return False
        with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
            handle.write(record)
        self._held.add(path)
        return True

    def _keep(self) -> None:
        while not self._ended.wait(self.lease / 6):
            for path in list(self._held):
                with suppress(OSError):
                    os.utime(path)
