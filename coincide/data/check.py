"""Decode every image once, before anything is built on it."""

from __future__ import annotations

import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from coincide.data.images import CorruptImage, MissingImage, load_image
from coincide.progress import bar


def corrupt_images(
    root: Path, names: Collection[str], *, threads: int | None = None
) -> dict[str, str]:
    """Those of ``names`` that do not decode, with the reason, in the order of the names.

    Missing ones are left to the reader. Threads suffice: decoding releases the interpreter.
    """

    def check(name: str) -> tuple[str, str]:
        try:
            load_image(root, name)
        except MissingImage:
            return name, ""
        except CorruptImage as error:
            return name, str(error)
        return name, ""

    found = {}
    with (
        bar("check images", total=len(names), unit="image") as progress,
        ThreadPoolExecutor(threads or min(16, os.cpu_count() or 1)) as pool,
    ):
        for name, reason in pool.map(check, sorted(names)):
            if reason:
                found[name] = reason
            progress.update(1)
    return found
