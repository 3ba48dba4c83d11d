"""A budget: a fraction in (0, 1] given as a float, or a number of examples given as an int >= 1."""

from __future__ import annotations

import math
from typing import Any

from coincide.needs import SubsetOf
from coincide.schema import DataSource, UserError

CHOICES = "a float in (0, 1] (a fraction: 0.2, 1.0) or an int >= 1 (a count: 800)"


def check(budget: Any) -> float | int:
    """``budget`` unchanged; UserError unless it is valid.

    ``1`` is one example, ``1.0`` is all of them.
    """
    fraction = isinstance(budget, float) and math.isfinite(budget) and 0 < budget <= 1
    count = isinstance(budget, int) and not isinstance(budget, bool) and budget >= 1
    if not (fraction or count):
        hint = ""
        if isinstance(budget, float) and budget > 1 and budget.is_integer():
            hint = f" Did you mean the count budget={int(budget)}?"
        raise UserError(f"budget={budget!r} is out of range: expected {CHOICES}.{hint}")
    return budget


def count(budget: float | int, rows: int) -> int:
    """Number of examples of a budget: for a fraction floor(budget * rows), at least 1.

    A tiny amount is added before the floor, so that 0.29 of 100 is 29 although 0.29 * 100 < 29 in
    floating point.
    Raises UserError if that is more than ``rows``.
    """
    check(budget)
    if isinstance(budget, int):
        if budget > rows:
            raise UserError(
                f"budget={budget} asks for more examples than the pool of {rows:,} has: "
                f"expected at most {rows}, or {CHOICES}."
            )
        return budget
    return min(rows, max(1, math.floor(budget * rows + 1e-9 * rows)))


def budget_of(need: SubsetOf, budget: float | int, source: DataSource) -> float | int:
    """The budget of another method's subset, in a run with ``budget`` over ``source``."""
    if need.of_pool is not None:
        return need.of_pool
    if need.share == need.at_most == 1:
        return budget
    rows = source.size()
    share = int(need.share * count(budget, rows) + 1e-9)
    return max(1, min(share, count(need.at_most, rows)))
