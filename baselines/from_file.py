"""A subset made elsewhere, e.g. the index file of a paper: ``method=from_file method.path=...``.

The budget is what the file holds. Its content, not its path, is in the key. It may hold row
indices, a mask, ids, rows, or a table: `.npy`, `.npz`, JSON, JSON lines, text, csv or parquet, told
by content; whatever `python -m coincide.export` writes is read back. Rows are matched by an id that
one row has, else by pictures and text; what is unclear is refused with the first ten. Where the
dataset's own ids are integers, so is a list of integers: say `method.by=row` or `method.by=id`.
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
    by: str = "auto"
    """What integers in it are: ``row`` indices, or an ``id``; ``auto``: refused where unclear."""
    name: str = "from_file"
    uses_seed: ClassVar[bool] = False
    fixed_size: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse a path that is not there, or another ``by``, before anything is planned."""
        from coincide.data.entries import TAKES
        from coincide.data.resolve import BY

        if self.by not in BY:
            raise UserError(f"method.by={self.by!r}: the choices are {', '.join(BY)}.")
        if not Path(self.path).is_file():
            raise UserError(f"method.path={self.path!r}: no such file. {TAKES}")

    def key_config(self) -> Mapping[str, Any]:
        """The digest of the file, and how it is read where that is said."""
        from coincide.files import sha256_file
        from coincide.store import check_path

        check_path(Path(self.path))
        said = {} if self.by == "auto" else {"by": self.by}
        return {"sha256": sha256_file(Path(self.path)), **said}

    def needs(self) -> Sequence[Need]:
        """Nothing."""
        return ()

    def select(self, pool: Pool, k: int, seed: int) -> Selection:
        """The rows of the file, in its order."""
        from coincide.data.resolve import resolve_rows

        return Selection(resolve_rows(Path(self.path), pool.examples, self.by))
