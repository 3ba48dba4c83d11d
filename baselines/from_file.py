"""A subset made elsewhere, e.g. the index file of a paper: ``method=from_file method.path=...``.

The budget is the number of rows in the file. The key contains the file's content, not its path. It
may hold row indices, a mask, ids, rows, or a table: `.npy`, `.npz`, JSON, JSON lines, text, csv or
parquet, recognised by content; all formats of `python -m coincide.export` are read. Rows are
matched by an id that only one row has, else by pictures and text; ambiguous entries are refused,
with the first ten. If the dataset's own ids are integers, a list of integers is ambiguous as well:
set `method.by=row` or `method.by=id`.

Published subsets are oracles: run a method and the file that its authors give, and the overlaps of
the report say how many rows both have, beside what chance gives. Public files: VisNec's and
PreSel's at 15 %, LLAVA-ICONS-133K, PRISM-Instruct-250K (37.7 % of the pool, not 30 %).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from coincide.schema import Example, Need, Pool, Selection, UserError


@dataclass(frozen=True)
class FromFile:
    """The rows that the file ``path`` names.

    Ambiguous or unknown ids are refused with the first ten.
    """

    path: str
    by: str = "auto"
    """What integers in the file are: ``row`` indices or an ``id``; ``auto``: refused where
    ambiguous."""
    name: str = "from_file"
    uses_seed: ClassVar[bool] = False
    fixed_size: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Raise UserError for a path that does not exist or an unknown ``by``, before anything is
        planned.
        """
        from coincide.data.entries import TAKES
        from coincide.data.resolve import BY

        if self.by not in BY:
            raise UserError(f"method.by={self.by!r}: the choices are {', '.join(BY)}.")
        if not Path(self.path).is_file():
            raise UserError(f"method.path={self.path!r}: no such file. {TAKES}")

    def key_config(self) -> Mapping[str, Any]:
        """The hash of the file, and ``by`` unless it is ``auto``."""
        from coincide.store import check_path
        from coincide.system.files import sha256_file

        check_path(Path(self.path))
        said = {} if self.by == "auto" else {"by": self.by}
        return {"sha256": sha256_file(Path(self.path)), **said}

    @property
    def names_data(self) -> bool:
        """Always: the file names rows."""
        return True

    def check_data(self, examples: Sequence[Example]) -> None:
        """Raises UserError for rows that the data do not have, or that leave a doubt."""
        from coincide.data.resolve import resolve_rows

        resolve_rows(Path(self.path), examples, self.by)

    def needs(self) -> Sequence[Need]:
        """No signals."""
        return ()

    def select(self, pool: Pool, k: int, seed: int) -> Selection:
        """The rows that the file names, in its order."""
        from coincide.data.resolve import resolve_rows

        return Selection(resolve_rows(Path(self.path), pool.examples, self.by))
