"""A subset made elsewhere, e.g. the index file of a paper: ``method=from_file method.path=...``.

The budget is what the file holds. Its content, not its path, is in the key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from coincide.schema import Need, Pool, Selection, UserError


@dataclass(frozen=True)
class FromFile:
    """Rows read from ``path``; ambiguous or unknown ids are refused with the first ten."""

    path: str
    name: str = "from_file"
    uses_seed: ClassVar[bool] = False
    fixed_size: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse a path that is not there before anything is planned."""
        if not Path(self.path).is_file():
            raise UserError(f"method.path={self.path!r}: no such file. Give a .json or .npy file.")

    def key_config(self) -> Mapping[str, Any]:
        """The digest of the file."""
        from coincide.files import sha256_file

        return {"sha256": sha256_file(Path(self.path))}

    def needs(self) -> Sequence[Need]:
        """Nothing."""
        return ()

    def select(self, pool: Pool, k: int, seed: int) -> Selection:
        """The rows of the file, in its order."""
        from coincide.data.subset import resolve_rows

        return Selection(resolve_rows(Path(self.path), pool.examples))
