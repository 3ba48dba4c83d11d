"""Pictures embedded in a row (bytes, base64, a data: URI) are written as files, named by content.

They are stored below the image root as ``inline/<first two digits>/<SHA-256>.<format>``, so that
they are checked, hashed, trained on and exported like any other picture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from coincide.data.encoded import KIND, suffix_of
from coincide.data.encoded import as_bytes as as_bytes
from coincide.data.encoded import decode_inline as decode_inline
from coincide.data.encoded import is_base64 as is_base64
from coincide.data.fault import BadRow
from coincide.data.images import safe_path
from coincide.schema import UserError
from coincide.system.files import write_atomic

FOLDER = "inline"
PictureWriter = Callable[[str, bytes], None]
"""Writes a picture. Arguments: its path relative to the image root, and its bytes."""


def name_of(content: bytes) -> str:
    """Path, below the image root, for a picture with these bytes.

    Raises BadRow where there are none.
    """
    if not content:
        raise BadRow(KIND, "a picture of zero bytes")
    digest = hashlib.sha256(content).hexdigest()
    return f"{FOLDER}/{digest[:2]}/{digest}{suffix_of(content)}"


def picture_writer(root: Path) -> PictureWriter:
    """A :data:`PictureWriter` below ``root`` that writes each picture once.

    UserError if it cannot.
    """

    def keep(name: str, content: bytes) -> None:
        path = safe_path(root, name)
        if path.is_file() and path.stat().st_size == len(content):
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, partial(_write, content))
        except OSError as error:
            raise UserError(
                f"pictures that are part of the rows are written below data.images, to "
                f"{root / FOLDER}, and that cannot be written: {error}. Set data.images to a "
                "folder that can, for instance an empty one where no row names a file."
            ) from error

    return keep


def _write(content: bytes, path: Path) -> None:
    path.write_bytes(content)
