"""mmSSR's rule: rich in capabilities and spread over styles, by a table of scores.

A judge has given every row a score for each of some capabilities (0: none of it) and a style; the
table is the file ``scores``. In rounds, until the budget is met: the places that are missing are
divided evenly among the capabilities. Each capability in turn looks at the rows not yet taken that
have a score above 0 in it, by bucket: style and source. Buckets take turns, the smallest first,
each for an even part of what the capability has left, so that what one cannot give passes on to the
larger ones behind it; in a bucket the highest score comes first, then the lowest row.

From: mmSSR (arXiv 2503.13383; Apache), by a specification of its code: two 7B models answer for
every row 14 questions "0 to 5 for capability x" and "which of 9 styles". Only their answers matter
here, so any judge will do; the demo has one of its own (``python -m coincide.data.demo.judge``).

``scores``: csv or parquet with a column ``row`` (index in the data) or ``id`` (of rows whose id is
theirs alone), ``style``, and a column of numbers for each capability. Rows that it does not have
are never taken; nor are rows with no score above 0, unless nothing else is left.

Rows: text-only examples have scores like all others (``keep``), or get their share at random
(``quota``). Rows without an answer are never selected.

Cost: that of the judge, 15 answers a row; the rule costs nothing.

Published, LLaVA-OneVision 2.6M, 5, 10 and 30 %: 93.2, 94.8 and 99.1, random 89.3, 91.7 and 95.8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from baselines.ranking import TEXT_ONLY, TextOnly, check_choice, shares
from coincide.data.score_table import numbers_of, read_table
from coincide.schema import Example, Need, Pool, Selection, UserError

WANTED = "expected a table with `row` or `id`, `style`, and a column of numbers per capability"


@dataclass(frozen=True)
class MmSsr:
    """Takes rows of high scores in every capability, spread over styles and sources."""

    scores: str
    text_only: TextOnly = "keep"
    name: str = "mmssr"
    fixed_size: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_choice(self.name, "text_only", self.text_only, TEXT_ONLY)
        if not Path(self.scores).is_file():
            raise UserError(f"method.scores={self.scores!r}: no such file; {WANTED}.")

    @property
    def uses_seed(self) -> bool:
        """Only the quota of text-only rows is drawn."""
        return self.text_only == "quota"

    def key_config(self) -> Mapping[str, Any]:
        """The hash of the table instead of its path."""
        from coincide.store import check_path
        from coincide.system.files import sha256_file

        check_path(Path(self.scores))
        return {"scores": sha256_file(Path(self.scores)), "text_only": self.text_only}

    @property
    def names_data(self) -> bool:
        """Always: the table names rows."""
        return True

    def check_data(self, examples: Sequence[Example]) -> None:
        """Raises UserError for a table that does not fit the data."""
        read_scores(Path(self.scores), examples)

    def needs(self) -> Sequence[Need]:
        """No signals."""
        return ()

    def select(self, pool: Pool, k: int, seed: int) -> Selection:
        """``k`` rows by the rule. Raises UserError for a table that does not fit the data."""
        names, scores, style = read_scores(Path(self.scores), pool.examples)
        share = shares(pool, ~np.isnan(scores).all(axis=1), k, self.text_only, seed)
        rows = np.flatnonzero(share.candidates)
        sources = [pool.examples[row].source for row in rows.tolist()]
        buckets = [(style[row], source) for row, source in zip(rows.tolist(), sources, strict=True)]
        number = {bucket: i for i, bucket in enumerate(sorted(set(buckets)))}
        bucket = np.array([number[each] for each in buckets], np.int64)
        chosen, given = in_rounds(np.nan_to_num(scores[rows]), bucket, share.k)
        total = np.nansum(scores[rows], axis=1)
        order = np.lexsort((rows, -total))
        judged = np.full(len(pool.examples), np.nan, np.float32)
        judged[rows] = total
        return Selection(
            rows=np.concatenate([rows[chosen], share.text]),
            scores=judged,
            ranking=rows[order],
            facts={
                "by_capability": dict(zip(names, given.tolist(), strict=True)),
                "without_a_score": int(share.k - len(chosen)),
                "buckets": len(number),
                "text_only": self.text_only,
                **share.facts(),
            },
        )


def in_rounds(scores: np.ndarray, bucket: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Places of the rows taken, int64, at most ``k``, and how many each capability took, int64 [C].

    ``scores`` [n, C], ``bucket`` int [n]. Fewer than ``k`` where no row is left with a score above
    0.
    """
    capabilities = scores.shape[1]
    free = np.ones(len(scores), bool)
    taken: list[int] = []
    given = np.zeros(capabilities, np.int64)
    while len(taken) < k:
        missing, before = k - len(taken), len(taken)
        for number in range(capabilities):
            # even parts, the first ones one larger
            part = missing // capabilities + (number < missing % capabilities)
            found = _of_capability(scores[:, number], bucket, free, part)
            free[found] = False
            taken += found
            given[number] += len(found)
        if len(taken) == before:
            break
    return np.array(taken, np.int64), given


def _of_capability(score: np.ndarray, bucket: np.ndarray, free: np.ndarray, part: int) -> list[int]:
    able = np.flatnonzero(free & (score > 0))
    if not part or not len(able):
        return []
    order = able[np.lexsort((able, -score[able], bucket[able]))]
    names, starts, sizes = np.unique(bucket[order], return_index=True, return_counts=True)
    turns = np.lexsort((names, sizes))
    found: list[int] = []
    for place, which in enumerate(turns.tolist()):
        left = part - len(found)
        quota = -(-left // (len(turns) - place))
        start = starts[which]
        found += order[start : start + min(quota, sizes[which])].tolist()
    return found


def read_scores(
    path: Path, examples: Sequence[Example]
) -> tuple[list[str], np.ndarray, dict[int, str]]:
    """Names of the capabilities [C], scores float64 [N, C] (NaN: not in the table), and the style
    of each row in it. Raises UserError naming what is wrong, and the first rows where it is.
    """
    table, rows = read_table(path, examples)
    names = [name for name in table.columns if name not in ("row", "id", "style")]
    if "style" not in table.columns or not names:
        raise UserError(f"{path} has the columns {', '.join(table.columns)}; {WANTED}.")
    values = numbers_of(path, table, rows, names, len(examples))
    odd = rows[(values[rows] < 0).any(axis=1)]
    if len(odd):
        raise UserError(f"{path}: rows {odd[:10].tolist()} have a score below 0.")
    styles = table["style"].astype(str).tolist()
    return names, values, dict(zip(rows.tolist(), styles, strict=True))
