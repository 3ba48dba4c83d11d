"""Common part of the baselines: which rows compete, and how a score becomes a subset.

Two rules hold for every baseline. A row without an answer, or whose score is NaN, is never
selected: there is nothing to learn from it. Text-only rows are treated as ``text_only`` says:

- ``keep``: they compete with all others (methods that score them like any row);
- ``quota``: they get their proportional share of the budget, chosen at random with the run's
  seed (methods that look at the image), so that budgets stay comparable;
- ``drop``: they are left out;
- ``all``: every one of them is taken, and the method divides the rest of the budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from coincide.data.blocks import has_answer as has_answer
from coincide.data.columns import answered, pictured
from coincide.schema import Pool, Selection, UserError

Direction = Literal["low", "middle", "high"]
TextOnly = Literal["keep", "quota", "drop", "all"]
DIRECTIONS = ("low", "middle", "high")
TEXT_ONLY = ("keep", "quota", "drop")


def preference(score: np.ndarray, direction: Direction) -> np.ndarray:
    """All rows with a score, int64, in the order in which they are taken.

    ``score`` float [N]; rows with NaN are left out. Let ``order`` be the n scored rows by ascending
    score (ties by row index). For every M, the first M rows of the result are, as a set, ``low``:
    ``order[:M]``; ``high``: ``order[n-M:]``; ``middle``: ``order[s:s+M]`` with s = n // 2 - M // 2,
    the rule of COINCIDE's training code. So a smaller budget's rows are always contained in a
    larger one's.
    """
    score = np.asarray(score, dtype=np.float32)
    rows = np.flatnonzero(~np.isnan(score))
    order = rows[np.argsort(score[rows], kind="stable")]
    if direction == "low":
        return order
    if direction == "high":
        return order[::-1]
    steps = np.arange(len(order))
    outward = np.where(steps % 2, -(steps + 1) // 2, steps // 2)  # 0, -1, 1, -2, 2 ...
    return order[len(order) // 2 + outward]


@dataclass(frozen=True)
class Shares:
    """How a budget is divided between rows that compete by score and random text-only rows."""

    candidates: np.ndarray
    """bool [N]: rows that compete by the method's rule."""
    k: int
    """Number of them to take."""
    text: np.ndarray
    """int64: text-only rows taken beside them."""
    drawn: bool = True
    """Whether these were drawn at random; else they are all that there are."""

    def facts(self) -> dict[str, int]:
        """These numbers for the manifest."""
        name = "text_only_at_random" if self.drawn else "text_only_kept"
        return {"candidates": int(self.candidates.sum()), name: len(self.text)}


def shares(pool: Pool, defined: np.ndarray, k: int, policy: TextOnly, seed: int) -> Shares:
    """Divide ``k`` places; ``defined`` bool [N]: rows that the method has a score for.

    With ``quota`` every usable text-only row with an answer may be drawn, scored or not. The draw
    takes the first rows of one permutation per seed, so larger budgets contain the draws of smaller
    ones.
    """
    # rows that may be selected at all, and rows without an image
    able = pool.usable & answered(pool.examples)
    text = ~pictured(pool.examples)
    # text-only rows compete like all others
    if policy == "keep":
        return Shares(able & defined, k, np.empty(0, np.int64))
    # text-only rows do not compete, and get no places either
    candidates, texts = able & defined & ~text, able & text
    if policy == "drop":
        return Shares(candidates, k, np.empty(0, np.int64))
    if policy == "all":
        return Shares(candidates, k - _all_of(texts, k), np.flatnonzero(texts), drawn=False)
    # their share of the places, in proportion to the rows, rounded half up
    total = int(candidates.sum() + texts.sum())
    quota = (2 * k * int(texts.sum()) + total) // max(2 * total, 1)
    # the first text-only rows of one permutation of the pool
    shuffled = np.random.default_rng(seed).permutation(len(text))
    return Shares(candidates, k - quota, shuffled[texts[shuffled]][:quota])


def _all_of(texts: np.ndarray, k: int) -> int:
    """How many text-only rows there are; UserError where the budget does not hold them."""
    count = int(texts.sum())
    if count > k:
        raise UserError(
            f"method.text_only=all keeps every text-only row, {count:,} here, and the budget is "
            f"{k:,} rows. Set a larger budget, or text_only=quota for their share of it."
        )
    return count


def select_by_score(
    pool: Pool, score: np.ndarray, k: int, direction: Direction, policy: TextOnly, seed: int
) -> Selection:
    """The ``k`` rows that ``direction`` prefers by ``score`` float [N], and the share of text-only
    rows.
    """
    score = np.asarray(score, dtype=np.float32)
    share = shares(pool, ~np.isnan(score), k, policy, seed)
    judged = np.where(share.candidates, score, np.float32(np.nan))
    order = preference(judged, direction)
    return Selection(
        rows=np.concatenate([order[: share.k], share.text]),
        scores=judged,
        ranking=order,
        facts={"direction": direction, "text_only": policy, **share.facts()},
    )


def check_choice(method: str, field: str, value: Any, choices: Sequence[Any]) -> None:
    """Raise UserError, naming method and field, unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise UserError(
            f"method.{field}: got {value!r} for {method}; choices: {', '.join(map(str, choices))}"
        )


def check_positive(method: str, **fields: float) -> None:
    """Raise UserError, naming method and field, unless all numbers are above 0."""
    for field, value in fields.items():
        if isinstance(value, bool) or not value > 0:
            raise UserError(f"method.{field}: got {value!r} for {method}; expected more than 0")
